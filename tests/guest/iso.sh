#!/usr/bin/env bash
# Builds a test medium: an ISO that firmware (UEFI) boots by itself, from Debian's kernel, busybox and systemd's EFI stub.
#
#   iso.sh --arch x86_64|aarch64 [--agent FILE|none] [--update] [medium|installer]
#
#   medium      says what it finds, counts on the console, and powers off at the power button
#   installer   installs a system on an empty disk: a web server, and the guest's agent as a service. --agent takes a ready-made
#               agent instead of building it, or none
#
# The last line on stdout is the file. It lies in the cache, named by everything that went into it, and is there either whole or not at
# all. --update looks for newer packages; otherwise the versions first found for these scripts stay, and no network is needed.
#
# Cache: $DVN_CACHE (default ${XDG_CACHE_HOME:-~/.cache}/darwin-vz-nix). Needs no privileges, no loop device.
# Needs these Debian packages: binutils mtools python3-minimal xorriso (and apt, dpkg, coreutils, findutils, tar).
set -euo pipefail
export LC_ALL=C SOURCE_DATE_EPOCH=0
umask 022
# shellcheck source=tests/tools/lib.sh
. "$(dirname "$0")/../tools/lib.sh"
# shellcheck source=tests/tools/debian.sh
. "$(dirname "$0")/../tools/debian.sh"
# shellcheck source=tests/guest/parts.sh
. "$(dirname "$0")/parts.sh"

suite=bookworm # QEMU 7.2 crashes with newer kernels under TCG
here=$(cd "$(dirname "$0")" && pwd)

arguments=("$@") arch='' agent='' update='' medium=medium
while [ $# -gt 0 ]; do
  case $1 in
    --arch) arch=${2:?} && shift 2 ;;
    --agent) agent=${2:?} && shift 2 ;;
    --update) update=1 && shift ;;
    medium | installer) medium=$1 && shift ;;
    *) die "unknown argument $1; see the top of $0" ;;
  esac
done
of_arch "$arch"
need mformat mtools; need python3 python3-minimal; need xorriso xorriso; need dpkg-deb dpkg; need readelf binutils

# What is special about a medium: its `label`, the kernel's `modules`, `packages` besides those of every medium, each printed as
# `SUITE FILE.deb`, and `fill`, which completes $root, its initial RAM disk.
# shellcheck source=tests/guest/medium/contents.sh
# shellcheck source=tests/guest/installer/contents.sh
. "$here/$medium/contents.sh"

mkdir -p "$DVN_CACHE"/{debs,media,packages}
cache=$(cd "$DVN_CACHE" && pwd)
work=$(mktemp -d "$cache/media/.building.XXXXXX")
trap 'rm -rf "$work"' EXIT

# --- packages --------------------------------------------------------------------------------------------------------------

# shellcheck disable=SC2034  # for debian.sh
debian_state=$work/apt debian_arch=$deb

# shellcheck disable=SC2317  # called by debian_list
resolve() { # prints "SUITE FILE.deb", one a line
  local image
  debian_index "$suite"
  image=$(kernel_image "$suite")
  package_files "$suite" "$image" busybox-static systemd-boot-efi
  packages
}

scripts=("$here"/{iso,parts}.sh "$here/$medium/contents.sh")
list=$cache/packages/$medium-$arch-$(cat "${scripts[@]}" "$here/../tools/debian.sh" | sha256sum | cut -c1-16)
found=
[ ! -e "$list" ] || [ -n "$update" ] || found=1
debian_list ${update:+--anew} "$list" resolve

# --- key -------------------------------------------------------------------------------------------------------------------

case $medium:$agent in
  installer:) agent=$(build_agent "$arch") ;;
  *:none) agent='' ;;
esac
contents() { # what goes into the medium, with its names
  (cd "$here" && sha256sum {iso,parts}.sh && find efi "$medium" -type f -print0 | sort -z | xargs -0 sha256sum)
  cat "$list" ${agent:+"$agent"}
}
key=$(contents | sha256sum | cut -c1-32)
prefix=${medium#medium}
iso=$cache/media/${prefix:+$prefix-}$arch-$key.iso
if [ -e "$iso" ]; then echo "$iso"; exit; fi

if ! debian_fetch "$list" "$cache/debs"; then
  [ -n "$found" ] || die "packages cannot be had (apt says why above)"
  say "Debian has other versions by now"
  rm -r "$work"
  exec "$0" "${arguments[@]}" --update
fi

# --- unpack ----------------------------------------------------------------------------------------------------------------

say "building the $medium for $arch"
tree=$work/packages root=$work/root
# With /usr merged, as on every Debian system.
mkdir -p "$tree"/usr/{bin,sbin,lib,lib64}
for dir in bin sbin lib lib64; do ln -s usr/$dir "$tree/$dir"; done
while read -r _ file; do
  dpkg-deb --fsys-tarfile "$cache/debs/$file" | tar -x --keep-directory-symlink --no-same-owner -C "$tree"
done <"$list"

# base DIRECTORY: begins an initial RAM disk: with busybox, the modules, and what the init of every medium does first.
base() {
  mkdir -p "$1"/{bin,dev,lib,modules,proc,sys}
  cp "$tree/usr/bin/busybox" "$1/bin/"
  cp "$here/efi/early.sh" "$1/lib/"
  # shellcheck disable=SC2086,SC2154  # a list of words, from contents.sh
  take_modules "$tree/usr/lib/modules" "$1/modules" $modules
}

# program DIRECTORY OUT: an EFI program that boots the kernel with this initial RAM disk.
program() {
  local kernel
  kernel=$(echo "$tree"/boot/vmlinuz-*)
  [ -f "$kernel" ] || die "the kernel package has no single /boot/vmlinuz-*"
  "$here/efi/newc.py" "$1" >"$work/initrd"
  # A kernel that panics resets the machine, which QEMU takes for its end.
  "$here/efi/uki.py" "$tree/usr/lib/systemd/boot/efi/$stub" "$kernel" "$work/initrd" "console=$console panic=-1 quiet" "$2"
}

base "$root"
fill
program "$root" "$work/boot.efi"

# --- the ISO ---------------------------------------------------------------------------------------------------------------

# The EFI system partition, which is what the firmware reads of it.
kib=$(($(stat -c %s "$work/boot.efi") / 1024 + 1024))
truncate -s "${kib}K" "$work/esp.img"
# shellcheck disable=SC2154  # from contents.sh
mformat -i "$work/esp.img" -v "$label" -N 0 ::
mmd -i "$work/esp.img" ::/EFI ::/EFI/BOOT
mcopy -i "$work/esp.img" "$work/boot.efi" "::/EFI/BOOT/BOOT$efi.EFI"
mkdir "$work/empty"
xorriso -as mkisofs -quiet -V "$label" -partition_offset 16 -append_partition 2 0xef "$work/esp.img" -appended_part_as_gpt \
  -e --interval:appended_partition_2:all:: -no-emul-boot -o "$work/medium.iso" "$work/empty" 2>"$work/log" || die "$(cat "$work/log")"
chmod 444 "$work/medium.iso"
mv "$work/medium.iso" "$iso"
echo "$iso"
