#!/bin/sh
# Builds the commit that is checked out twice more, from clones in folders of different names with nothing built in
# them, and compares what is to be passed on byte by byte. Kernels come from the cache: they are named by what they
# were built of.
set -eu

if [ -n "$(git status --porcelain)" ]; then
    echo "There are changes that are not committed: the two would not be of one commit." >&2
    exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
files="mote-x86_64.img mote-x86_64.img.zst mote-x86_64.cdx.json SHA256SUMS"

for name in one/mote another/folder/mote; do
    echo "  building in $(dirname "$name")/ …"
    git clone --quiet . "$folder/$name"
    # What this build was told about its target folder and tools is about this folder.
    (cd "$folder/$name" && env -u CARGO_TARGET_DIR -u MOTE_IMAGE_TOOL make --no-print-directory image >"$folder/log" 2>&1) ||
        { cat "$folder/log" >&2; exit 1; }
    mkdir "$folder/kept-$(dirname "$name" | tr / -)"
    for file in $files; do mv "$folder/$name/dist/$file" "$folder/kept-$(dirname "$name" | tr / -)/"; done
    rm -rf "${folder:?}/$name"
done

for file in $files; do
    cmp "$folder/kept-one/$file" "$folder/kept-another-folder/$file"
done
echo "Two builds of $(git rev-parse --short HEAD) are the same, byte by byte:"
cat "$folder/kept-one/SHA256SUMS"
