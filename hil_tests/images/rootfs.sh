#!/usr/bin/env bash
# Makes a root filesystem of Debian packages: rootfs.sh OUT [--arch ARCH] [--with PACKAGE]...
#
# OUT is an archive if it ends in .tar, otherwise a folder, which must not be there yet or be empty.
# Packages come from the mirrors that this machine's apt uses, in the versions that its lists name;
# the same lists give the same bytes. What was made is kept below $FIELDFARE_CACHE, by default
# ~/.cache/fieldfare, under the digest of all that decides over it.
#
# Wants mmdebstrap, and root for a folder, because its files belong to many users.
set -euo pipefail

usage() {
    echo "usage: rootfs.sh OUT [--arch ARCH] [--with PACKAGE]..." >&2
    exit 2
}

[ "$#" -ge 1 ] && [ "${1#-}" = "$1" ] || usage
out=$1
shift
arch=$(dpkg --print-architecture)
packages=(systemd-sysv udev dbus python3)
while [ "$#" -gt 0 ]; do
    [ "$#" -ge 2 ] || usage
    case "$1" in
        --arch) arch=$2 ;;
        --with) packages+=("$2") ;;
        *) usage ;;
    esac
    shift 2
done
export PATH="$PATH:/usr/sbin:/sbin"
command -v mmdebstrap >/dev/null || {
    echo "rootfs.sh needs mmdebstrap (Debian package mmdebstrap)" >&2
    exit 1
}

debian() {
    apt-get indextargets --format "$1" 'Created-By: Packages' 'Origin: Debian' | sort -u
}
mapfile -t lists < <(debian '$(FILENAME)')
mapfile -t places < <(debian '$(REPO_URI) $(RELEASE) $(COMPONENT)')
[ "${#lists[@]}" -gt 0 ] || {
    echo "apt knows no packages of Debian: run apt-get update first" >&2
    exit 1
}
# The suite that the updates and security suites belong to has the shortest name.
suite=$(printf '%s\n' "${places[@]}" | awk '{ print length($2), $2 }' | sort -n | head -1 | cut -d' ' -f2)
SOURCE_DATE_EPOCH=$(stat --format=%Y "${lists[@]}" | sort -n | tail -1)
export SOURCE_DATE_EPOCH

cache=${FIELDFARE_CACHE:-$HOME/.cache/fieldfare}
key=$({
    cat "${BASH_SOURCE[0]}"
    printf '%s\n' "$arch" "${packages[@]}" "${places[@]}"
    stat --format='%n %s %Y' "${lists[@]}"
} | sha256sum | cut -c1-16)
kept="$cache/rootfs-$arch-$key.tar"

if [ ! -e "$kept" ]; then
    mkdir -p "$cache"
    partial=$(mktemp "$kept.XXXXXX")
    trap 'rm -f "$partial"' EXIT
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    printf "deb [signed-by=$keyring] %s %s %s\n" $(printf '%s\n' "${places[@]}") |
        mmdebstrap --quiet --variant=minbase --architectures="$arch" \
            --include="$(IFS=,; echo "${packages[*]}")" \
            --aptopt='Acquire::Languages "none"' \
            --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/info/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' \
            --dpkgopt='path-exclude=/usr/share/man/*' \
            --customize-hook='rm -rf "$1"/var/cache/apt/*.bin "$1"/var/cache/ldconfig' \
            --customize-hook='truncate --size=0 "$1/etc/machine-id"' \
            --customize-hook='echo localhost > "$1/etc/hostname"' \
            --customize-hook='rm -f "$1/etc/resolv.conf"' \
            --format=tar "$suite" "$partial" -
    mv "$partial" "$kept"
    trap - EXIT
fi

case "$out" in
    *.tar) cp --reflink=auto "$kept" "$out" ;;
    *)
        mkdir -p "$out"
        [ -z "$(ls -A "$out")" ] || {
            echo "$out is not empty: name a folder that is not there yet" >&2
            exit 1
        }
        tar --extract --file="$kept" --directory="$out" --numeric-owner --same-owner --xattrs \
            --xattrs-include='*'
        ;;
esac
