#!/bin/sh
# Makes sure that the Debian packages of a list, image/packages.list by default, are installed: asks dpkg once; installs
# what is missing as root or through sudo, else says what to install and stops.
set -eu

list=${1:-$(dirname "$0")/packages.list}
packages=$(sed 's/#.*//' "$list")

if ! command -v cargo >/dev/null; then
    echo "Rust is missing: install it from https://rustup.rs (1.95 or newer), then run this again." >&2
    exit 1
fi
if ! command -v dpkg-query >/dev/null; then
    echo "This is not Debian. Install what these packages of Debian 12 bring, and continue with MOTE_SETUP=no:" >&2
    echo $packages >&2
    exit 1
fi

# shellcheck disable=SC2086 # a list of words
missing=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2>/dev/null |
    awk -v want="$(echo $packages)" '
        $1 == "installed" { have[$2] = 1 }
        END { n = split(want, name, " "); for (i = 1; i <= n; i++) if (!(name[i] in have)) print name[i] }')
[ -n "$missing" ] || exit 0

missing=$(echo $missing)
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=sudo
else
    echo "These Debian packages are missing and need root to install:" >&2
    echo "    apt-get install --no-install-recommends $missing" >&2
    exit 1
fi
echo "  installing Debian packages: $missing"
$as_root apt-get update -qq || echo "  apt-get update failed; trying with the lists that are there" >&2
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
