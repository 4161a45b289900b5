#!/bin/sh
# From what buildroot made to the disk: the same assembler as of `make image`, with parts from here. Leaves
# mote-x86_64.img in the folder of images.
set -eu

images=$1
checkout=$(cd "$(dirname "$0")/../../.." && pwd)
parts=$images/parts

# The one folder of a package; buildroot has its version in the name, and `custom` for a source from elsewhere.
built() {
    for folder in "$BUILD_DIR/$1"-[0-9]* "$BUILD_DIR/$1-custom"; do
        if [ -d "$folder" ]; then
            echo "$folder"
            return
        fi
    done
    echo "$1 was not built" >&2
    return 1
}

# Kconfig drops symbols without a word.
for kernel in host:linux guest:mote-guest-kernel; do
    folder=$(built "${kernel#*:}")
    "$MOTE_IMAGE_TOOL" --root "$checkout" check-config \
        "$checkout/config/kernel/${kernel%:*}.defconfig" "$folder/.config"
done

rm -rf "$parts/tools" "$parts/grub"
for program in mke2fs:mkfs.ext4 e2fsck:e2fsck resize2fs:resize2fs; do
    install -D -m 0755 "$TARGET_DIR/sbin/${program%:*}" "$parts/tools/sbin/${program#*:}"
    headers=$(readelf --program-headers --wide "$parts/tools/sbin/${program#*:}")
    case $headers in *INTERP*) echo "${program%:*} is not static" >&2 && exit 1 ;; esac
done

grub=$(built grub2)
mkdir -p "$parts/grub/bin" "$parts/grub/lib/grub"
for program in grub-mkimage grub-script-check; do
    ln -s "$HOST_DIR/bin/$program" "$parts/grub/bin/$program"
done
for format in i386-pc x86_64-efi; do
    ln -s "$grub/build-$format/grub-core" "$parts/grub/lib/grub/$format"
done

"$MOTE_IMAGE_TOOL" --root "$checkout" --dist "$images" build --binaries "$parts/bin" --kernels "$images" \
    --runtimes "$parts/runtimes" --tools "$parts/tools"
"$MOTE_IMAGE_TOOL" --root "$checkout" --dist "$images" disk --grub "$parts/grub"
