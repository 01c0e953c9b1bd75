#!/usr/bin/env bash
# Builds the test medium: an ISO that firmware (UEFI) boots by itself, from Debian's kernel, busybox and systemd's EFI stub. What it does
# is in medium/init.
#
#   iso.sh --arch x86_64|aarch64 [--update]
#
# The last line on stdout is the file. It lies in the cache, named by everything that went into it, and is there either whole or not at
# all. --update looks for newer packages; otherwise the versions first found for this script stay, and no network is needed.
#
# Cache: $DVN_CACHE (default ${XDG_CACHE_HOME:-~/.cache}/darwin-vz-nix). Needs no privileges, no loop device.
# Needs these Debian packages: mtools python3-minimal xorriso (and apt, dpkg, coreutils).
set -euo pipefail
export LC_ALL=C SOURCE_DATE_EPOCH=0
umask 022
# shellcheck source=tests/tools/lib.sh
. "$(dirname "$0")/../tools/lib.sh"
# shellcheck source=tests/tools/debian.sh
. "$(dirname "$0")/../tools/debian.sh"

suite=bookworm # QEMU 7.2 crashes with newer kernels under TCG
here=$(cd "$(dirname "$0")" && pwd)

arguments=("$@") arch='' update=
while [ $# -gt 0 ]; do
  case $1 in
    --arch) arch=${2:?} && shift 2 ;;
    --update) update=1 && shift ;;
    *) die "unknown argument $1; see the top of $0" ;;
  esac
done
case $arch in
  x86_64) deb=amd64 efi=X64 stub=linuxx64.efi.stub kernel_package=linux-image-cloud-amd64 console=ttyS0 ;;
  aarch64) deb=arm64 efi=AA64 stub=linuxaa64.efi.stub kernel_package=linux-image-arm64 console=ttyAMA0 ;;
  *) die "--arch must be x86_64 or aarch64" ;;
esac
need mformat mtools; need python3 python3-minimal; need xorriso xorriso; need dpkg-deb dpkg

mkdir -p "$DVN_CACHE"/{debs,media,packages}
cache=$(cd "$DVN_CACHE" && pwd)
work=$(mktemp -d "$cache/media/.building.XXXXXX")
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2034  # for debian.sh
debian_state=$work/apt debian_arch=$deb

# shellcheck disable=SC2317  # called by debian_list
resolve() { # prints "SUITE FILE.deb", one a line
  local image
  debian_index "$suite"
  image=$(debian_apt "$suite" apt-cache show "$kernel_package" | sed -n 's/^Depends:.*\(linux-image-[^ ,]*\).*/\1/p' | head -n1)
  [ -n "$image" ] || die "$kernel_package of $suite names no kernel"
  debian_apt "$suite" apt-get --print-uris download "$image" busybox-static systemd-boot-efi | awk -v s="$suite" '{print s, $2}'
}

list=$cache/packages/medium-$arch-$(cat "$here/iso.sh" "$here/../tools/debian.sh" | sha256sum | cut -c1-16)
found=
[ ! -e "$list" ] || [ -n "$update" ] || found=1
debian_list ${update:+--anew} "$list" resolve
key=$(cat "$here/iso.sh" "$here"/medium/* "$list" | sha256sum | cut -c1-32)
iso=$cache/media/$arch-$key.iso
if [ -e "$iso" ]; then echo "$iso"; exit; fi
if ! debian_fetch "$list" "$cache/debs"; then
  [ -n "$found" ] || die "packages cannot be had (apt says why above)"
  say "Debian has other versions by now"
  rm -r "$work"
  exec "$0" "${arguments[@]}" --update
fi

say "building $arch"
tree=$work/packages root=$work/root
mkdir -p "$tree" "$root"/{bin,dev,modules,proc,sys}
while read -r _ file; do dpkg-deb -x "$cache/debs/$file" "$tree"; done <"$list"

cp "$tree/bin/busybox" "$root/bin/" 2>/dev/null || cp "$tree/usr/bin/busybox" "$root/bin/"
cp "$here/medium/init" "$root/init"
# In the order in which they need each other; what is missing is part of this kernel.
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console button gpio-pl061 gpio_keys evdev; do
  file=$(find "$tree" -name "$module.ko" | head -n1)
  [ -n "$file" ] || continue
  cp "$file" "$root/modules/"
  echo "$module.ko" >>"$root/modules/order"
done
"$here/medium/newc.py" "$root" >"$work/initrd"
kernel=$(echo "$tree"/boot/vmlinuz-*)
[ -f "$kernel" ] || die "the kernel package has no single /boot/vmlinuz-*"
# A kernel that panics resets the machine, which QEMU takes for its end.
"$here/medium/uki.py" "$tree/usr/lib/systemd/boot/efi/$stub" "$kernel" "$work/initrd" "console=$console panic=-1 quiet" "$work/boot.efi"

# The EFI system partition, which is what the firmware reads of the ISO.
kib=$(($(stat -c %s "$work/boot.efi") / 1024 + 1024))
truncate -s "${kib}K" "$work/esp.img"
mformat -i "$work/esp.img" -v DVNTEST -N 0 ::
mmd -i "$work/esp.img" ::/EFI ::/EFI/BOOT
mcopy -i "$work/esp.img" "$work/boot.efi" "::/EFI/BOOT/BOOT$efi.EFI"
mkdir "$work/empty"
xorriso -as mkisofs -quiet -V DVNTEST -partition_offset 16 -append_partition 2 0xef "$work/esp.img" -appended_part_as_gpt \
  -e --interval:appended_partition_2:all:: -no-emul-boot -o "$work/medium.iso" "$work/empty" 2>"$work/log" || die "$(cat "$work/log")"
chmod 444 "$work/medium.iso"
mv "$work/medium.iso" "$iso"
echo "$iso"
