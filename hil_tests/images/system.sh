#!/usr/bin/env bash
# Makes what a slot of the emulated device holds: system.sh OUT
#
# OUT becomes a folder with system.squashfs (root filesystem, kernel and agent), vmlinuz and
# initrd.img out of it for starting without a bootloader, and GRUB's boot.img and core.img.
# The agent is this tree's wheel with the locked distributions that a device installs, in a virtual
# environment of the image's own Python. What was made is kept, as rootfs.sh says.
#
# Wants root, mmdebstrap, mksquashfs (squashfs-tools), grub-mkimage (grub-common, grub-pc-bin), and
# the environment that `make` makes; PYTHON names another interpreter.
set -euo pipefail

[ "$#" -eq 1 ] || { echo "usage: system.sh OUT" >&2; exit 2; }
out=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(cd "$here/../.." && pwd)
python=${PYTHON:-$tree/.venv/bin/python}
export PATH="$PATH:/usr/sbin:/sbin"
cache=${FIELDFARE_CACHE:-$HOME/.cache/fieldfare}
mkdir -p "$cache"
work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Of the kernel's modules only these, and what they need: the rest is two thirds of an image.
modules=(virtio_pci virtio_blk virtio_net virtio_rng ext4 squashfs overlay loop dm_mod dm_verity
    sch_netem)
packages=(kmod iproute2 initramfs-tools linux-image-cloud-amd64 openssh-server grub-common
    rauc-service e2fsprogs fdisk procps)
base_key=$({
    cat "${BASH_SOURCE[0]}" "$here/rootfs.sh"
    apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages' 'Origin: Debian' | sort -u |
        xargs stat --format='%n %s %Y'
} | sha256sum | cut -c1-16)
base="$cache/device-base-$base_key.tar"

# A kernel command line of its own, so that no tool of the image tells a chroot from a machine.
if [ ! -e "$base" ]; then
    root="$work/base"
    "$here/rootfs.sh" "$root" $(printf -- '--with %s ' "${packages[@]}")
    version=$(basename "$root"/lib/modules/*)
    for module in "${modules[@]}"; do
        # A module that is built in has no file.
        chroot "$root" modprobe --set-version="$version" --show-depends "$module" |
            sed -n 's|^insmod \([^ ]*\).*|\1|p'
    done | sort -u > "$work/kept"
    find "$root/lib/modules/$version/kernel" -name '*.ko*' | while read -r file; do
        grep --quiet --line-regexp --fixed-strings -- "${file#"$root"}" "$work/kept" || rm "$file"
    done
    chroot "$root" depmod "$version"
    printf '%s\n' MODULES=list COMPRESS=gzip > "$root/etc/initramfs-tools/conf.d/device"
    printf '%s\n' virtio_pci virtio_blk ext4 squashfs > "$root/etc/initramfs-tools/modules"
    SOURCE_DATE_EPOCH=$(stat --format=%Y "$root/var/lib/dpkg/status") \
        chroot "$root" update-initramfs -u >/dev/null
    cp "$root/boot/vmlinuz-$version" "$root/vmlinuz.real"
    cp "$root/boot/initrd.img-$version" "$root/initrd.real"
    rm -rf "$root"/vmlinuz "$root"/initrd.img "$root"/*.old "$root"/boot/*
    mv "$root/vmlinuz.real" "$root/vmlinuz"
    mv "$root/initrd.real" "$root/initrd.img"
    mkdir -p "$root/data" "$root/boot/env"
    chroot "$root" systemctl --quiet enable systemd-networkd
    chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer \
        dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
        systemd-timesyncd.service systemd-random-seed.service systemd-networkd-wait-online.service
    # Host keys belong to a device, not to an image; they lie on its data partition.
    rm -f "$root"/etc/ssh/ssh_host_*
    # Whatever only builds an image has no place in one.
    rm -rf "$root"/var/lib/apt/lists "$root"/var/cache "$root"/var/log/* \
        "$root"/usr/lib/*/gconv "$root"/usr/lib/*/perl "$root"/usr/lib/*/perl-base \
        "$root"/usr/lib/*/libperl.so* "$root"/usr/bin/perl* "$root"/usr/share/perl \
        "$root"/usr/lib/udev/hwdb* "$root"/usr/lib/grub "$root"/usr/share/grub
    tar --create --file="$base.partial" --directory="$root" --numeric-owner --sort=name \
        --xattrs .
    mv "$base.partial" "$base"
    rm -rf "$root"
fi

wheels="$work/wheels"
(cd "$tree" && "$python" -m hatchling build -t wheel -d "$wheels" >/dev/null)
(cd "$tree" && "$python" -m hil_tests.locked) > "$work/locked"
key=$({
    sha256sum < "$base"
    cat "${BASH_SOURCE[0]}" "$work/locked" "$wheels"/*.whl
    find "$here/files" -type f | sort | xargs cat
} | sha256sum | cut -c1-16)
kept="$cache/system-$key"

if [ ! -e "$kept" ]; then
    root="$work/root"
    mkdir "$root" "$work/made"
    tar --extract --file="$base" --directory="$root" --numeric-owner --same-owner --xattrs \
        --xattrs-include='*'
    # A virtual environment is these two files and a folder.
    home="$root/opt/fieldfare"
    site="$home/lib/python3.11/site-packages"
    mkdir -p "$home/bin" "$site"
    printf '%s\n' 'home = /usr/bin' 'include-system-site-packages = false' 'version = 3.11.2' \
        > "$home/pyvenv.cfg"
    ln -s /usr/bin/python3.11 "$home/bin/python"
    pip=("$python" -m pip --disable-pip-version-check --quiet install --no-deps --no-compile
        --target "$site" --upgrade --only-binary=:all: --python-version 3.11 --implementation cp
        --platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
    "${pip[@]}" --require-hashes -r "$work/locked"
    "${pip[@]}" "$wheels"/*.whl
    # `direct_url.json` names the folder that the wheel was built in.
    rm -rf "$site/bin" "$site"/hub "$site"/fieldfare-*/direct_url.json
    sed -i '/direct_url.json/d' "$site"/fieldfare-*/RECORD
    printf '%s\n' '#!/opt/fieldfare/bin/python' 'import sys' 'from agent.__main__ import main' \
        'sys.exit(main())' > "$home/bin/fieldfare-agent"
    chmod 755 "$home/bin/fieldfare-agent"
    # By content: a slot is read-only, and the times of its files are all the same.
    chroot "$root" /opt/fieldfare/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        /usr/lib/python3.11 /usr/lib/python3 /opt/fieldfare/lib >/dev/null || true
    cp -r "$here/files/." "$root/"
    chroot "$root" systemctl --quiet enable fieldfare-agent.service
    # GRUB reads zlib, and is slow at it: kernel and initrd are packed by themselves.
    # Every file has the same time, which mksquashfs takes from here.
    find "$root" -exec touch --no-dereference --date=@0 {} +
    SOURCE_DATE_EPOCH=0 mksquashfs "$root" "$work/made/system.squashfs" -quiet -no-progress -noappend -comp gzip \
        -Xcompression-level 4 \
        -action 'uncompressed@name(vmlinuz)||name(initrd.img)' >/dev/null
    cp "$root/vmlinuz" "$root/initrd.img" "$work/made/"
    cp /usr/lib/grub/i386-pc/boot.img "$work/made/"
    grub-mkimage --format=i386-pc --output="$work/made/core.img" --prefix='(hd0,gpt2)/grub' \
        biosdisk part_gpt ext2 squash4 gzio normal linux loadenv test echo configfile reboot \
        serial terminal minicmd ls cat sleep
    mv "$work/made" "$kept"
fi

# A few earlier ones stay, for whoever goes to and fro between two trees.
ls -dt "$cache"/system-* | tail -n +4 | xargs --no-run-if-empty rm -rf
ls -dt "$cache"/device-base-* | tail -n +3 | xargs --no-run-if-empty rm -f

mkdir -p "$out"
cp --reflink=auto "$kept"/* "$out/"
