#!/bin/sh
# Makes the folder that offline.fragment takes things from, its one argument: what Debian's packages (packages.list,
# which have to be installed) do not have in the form that buildroot wants.
#
#   toolchain/            an external toolchain: Debian's gcc and binutils, a sysroot of Debian's musl
#   e2fsprogs/            the source
#   musl-compat-headers/  what the package of that name would download
#   empty/                the source of packages that are not built
#
# Called again, it leaves what is complete. BUILDROOT_DIR is a checkout of buildroot; MOTE_DEBIAN another mirror.
set -eu

out=$1
: "${BUILDROOT_DIR:?is to be a checkout of buildroot}"
mkdir -p "$out/empty"
out=$(cd "$out" && pwd)
multiarch=x86_64-linux-gnu
gcc=/usr/bin/$multiarch-gcc-12

# $out/$1 appears when it is complete: when $2 has made all of it in the folder that it is given.
part() {
    if [ ! -d "$out/$1" ]; then
        rm -rf "$out/$1.new"
        mkdir "$out/$1.new"
        "$2" "$out/$1.new"
        mv "$out/$1.new" "$out/$1"
    fi
}

toolchain() {
    root=$1/sysroot
    mkdir -p "$1/bin" "$root/usr/include" "$root/usr/lib"
    cp -a /usr/include/x86_64-linux-musl/. "$root/usr/include/"
    cp -a /usr/lib/x86_64-linux-musl/*.a /usr/lib/x86_64-linux-musl/*.o "$root/usr/lib/"
    # The kernel's headers, without the folder of this architecture.
    dpkg -L linux-libc-dev | sed -n "s,^/usr/include/\(.*\.h\)$,\1,p" | while read -r header; do
        install -D -m 0644 "/usr/include/$header" "$root/usr/include/${header#"$multiarch/"}"
    done
    # Not for C++; buildroot would else copy all of gcc's folder to where it finds the library.
    ar cr "$root/usr/lib/libstdc++.a"

    for tool in ar as ld nm objcopy objdump ranlib readelf size strings strip; do
        ln -s "/usr/bin/$multiarch-$tool" "$1/bin/x86_64-linux-$tool"
    done
    for tool in ar nm ranlib; do
        ln -s "/usr/bin/$multiarch-gcc-$tool-12" "$1/bin/x86_64-linux-gcc-$tool"
    done
    # With -B in front of Debian's own folders. Buildroot gives the sysroot it has made of ours.
    cat > "$1/bin/x86_64-linux-gcc" <<END
#!/bin/sh
root=$out/toolchain/sysroot
next=
for word; do
    case \$word in
    --sysroot) next=yes ;;
    --sysroot=*) root=\${word#*=} ;;
    # For glibc only.
    -fopenmp) exit 1 ;;
    *) [ -z "\$next" ] || { root=\$word; next=; } ;;
    esac
done
exec $gcc --sysroot="\$root" -B"\$root/usr/lib/" "\$@"
END
    printf '#!/bin/sh\nexec %s -E "$@"\n' "$out/toolchain/bin/x86_64-linux-gcc" > "$1/bin/x86_64-linux-cpp"
    chmod 755 "$1/bin/x86_64-linux-gcc" "$1/bin/x86_64-linux-cpp"
}

# apt with lists of its own: nothing on this machine changes.
e2fsprogs() {
    . /etc/os-release
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial"
    echo "deb-src [signed-by=$keys] ${MOTE_DEBIAN:-http://deb.debian.org/debian} $VERSION_CODENAME main" > "$1/apt/list"
    set -- "$1" -qq -o APT::Sandbox::User=root -o "Dir::Etc::SourceList=$1/apt/list" -o Dir::Etc::SourceParts=- \
        -o "Dir::State::Lists=$1/apt/lists" -o "Dir::Cache=$1/apt/cache"
    folder=$1
    shift
    apt-get "$@" update
    (cd "$folder/apt" && apt-get "$@" source --download-only e2fsprogs)
    tar -xf "$folder"/apt/e2fsprogs_*.orig.tar.?z -C "$folder" --strip-components=1 --no-same-owner
    rm -rf "$folder/apt"
}

headers() {
    cp "/usr/include/$multiarch/sys/queue.h" "$BUILDROOT_DIR/package/musl-compat-headers/cdefs.h" "$1/"
}

part toolchain toolchain
part e2fsprogs e2fsprogs
part musl-compat-headers headers
