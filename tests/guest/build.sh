#!/usr/bin/env bash
# Builds the Debian test guest: a guest bundle (docs/guest-contract.md) from Debian packages and our agent.
#
#   build.sh --arch x86_64|aarch64 [--agent FILE] [--out DIR] [--update]
#
# The last line on stdout is the bundle's directory. It lies in the cache, named by everything that went into it, and is
# there either whole or not at all. --out makes DIR a link to it. --agent takes a ready-made agent instead of building it.
# --update looks for newer packages; otherwise the versions first found for this script stay, and no network is needed.
#
# Cache: $DVN_CACHE (default ${XDG_CACHE_HOME:-~/.cache}/darwin-vz-nix). Needs no privileges, no loop device.
# Needs these Debian packages: binutils e2fsprogs lz4 xz-utils zstd (and apt, dpkg, gzip, coreutils).
set -euo pipefail
export LC_ALL=C
umask 022
# shellcheck source=tests/tools/lib.sh
. "$(dirname "$0")/../tools/lib.sh"
# shellcheck source=tests/tools/debian.sh
. "$(dirname "$0")/../tools/debian.sh"
# shellcheck source=tests/guest/parts.sh
. "$(dirname "$0")/parts.sh"

kernel_suite=bookworm # QEMU 7.2 crashes with newer kernels under TCG
user_suite=trixie     # bookworm's Nix is too old for local-overlay-store
user_packages="nix-bin openssh-server openssh-sftp-server busybox-static bash-static e2fsprogs ca-certificates"
# Of their dependencies, what no program of the guest loads.
unwanted='^(adduser|base-passwd|bzip2|curl|debconf|debianutils|gcc-.*-base|init-.*|libaudit-common|libdb5.*|libdbd-.*|libdbi-.*|libdebconf.*|libgdbm.*|libpam-modules.*|libpam-runtime|libperl.*|libsemanage.*|libsepol.*|libtext-.*|libwww-.*|login.*|logsave|lsb-base|mount|openssh-client|openssl|openssl-provider.*|passwd|perl.*|procps|readline-common|runit-helper|sensible-utils|systemd|sysvinit-utils|ucf|xz-utils)$'

here=$(cd "$(dirname "$0")" && pwd)
say() { echo "guest: $*" >&2; }

arguments=("$@") arch='' agent='' out='' update=
while [ $# -gt 0 ]; do
  case $1 in
    --arch) arch=${2:?} && shift 2 ;;
    --agent) agent=${2:?} && shift 2 ;;
    --out) out=${2:?} && shift 2 ;;
    --update) update=1 && shift ;;
    *) die "unknown argument $1; see the top of $0" ;;
  esac
done
of_arch "$arch"
for tool in apt-get debugfs dpkg-deb gzip lz4 mke2fs readelf sha256sum xz zstd; do
  PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null ||
    die "$tool is missing: apt-get install binutils e2fsprogs lz4 xz-utils zstd"
done
PATH=$PATH:/usr/sbin:/sbin

mkdir -p "$DVN_CACHE"/{debs,guests,packages}
cache=$(cd "$DVN_CACHE" && pwd)
work=$(mktemp -d "$cache/guests/.building.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

# --- packages --------------------------------------------------------------------------------------------------------------

# shellcheck disable=SC2034  # for debian.sh
debian_state=$work/apt debian_arch=$deb

# shellcheck disable=SC2317  # called by debian_list
resolve() { # prints "SUITE FILE.deb", one a line
  local image suite file
  debian_index "$kernel_suite"
  image=$(kernel_image "$kernel_suite")
  package_files "$kernel_suite" "$image"
  # shellcheck disable=SC2086 # a list of words
  debian_closure $user_suite $user_packages | while read -r suite file; do
    [[ ${file%%_*} =~ $unwanted ]] || echo "$suite $file"
  done
}

# The package list belongs to the scripts' text, so that a change of them resolves anew.
list=$cache/packages/$arch-$(cat "$here"/{build,parts}.sh "$here/../tools/debian.sh" | sha256sum | cut -c1-16)
found=
[ ! -e "$list" ] || [ -n "$update" ] || found=1
debian_list ${update:+--anew} "$list" resolve

# --- agent and key ---------------------------------------------------------------------------------------------------------

[ -n "$agent" ] || agent=$(build_agent "$arch")
key=$(cat "$here"/{build,parts}.sh "$list" "$agent" | sha256sum | cut -c1-32)
bundle=$cache/guests/$arch-$key
finish() {
  [ -z "$out" ] || { mkdir -p "$(dirname "$out")" && ln -sfn "$bundle" "$out"; }
  echo "$bundle"
  exit 0
}
[ ! -e "$bundle/guest.json" ] || finish

if ! debian_fetch "$list" "$cache/debs"; then
  [ -n "$found" ] || die "packages cannot be had (apt says why above)"
  say "Debian has other versions by now"
  rm -r "$work"
  exec "$0" "${arguments[@]}" --update
fi

# --- unpack ----------------------------------------------------------------------------------------------------------------

say "building $arch"
kernel_tree=$work/kernel tree=$work/packages root=$work/root initrd=$work/initrd new=$work/bundle
mkdir -p "$kernel_tree" "$tree" "$root" "$initrd/mods" "$new"
while read -r suite file; do
  case $suite in
    "$kernel_suite") dpkg-deb -x "$cache/debs/$file" "$kernel_tree" ;;
    *) dpkg-deb -x "$cache/debs/$file" "$tree" ;;
  esac
done <"$list"

# --- system image ----------------------------------------------------------------------------------------------------------

mkdir -p "$root"/{darwin-vz,data,dev,etc/nix,etc/ssl/certs,home,mnt,nix/store,nix/var,proc,root,run,sys,tmp,var/empty} \
  "$root"/usr/{bin,sbin,lib64,lib/openssh,lib/$triplet,libexec/sandbox-bin}
for dir in bin sbin lib lib64; do ln -s usr/$dir "$root/$dir"; done
ln -s ../run "$root/var/run"
ln -s ../tmp "$root/var/tmp"

take_programs usr/bin/{bash-static,busybox,nix} usr/sbin/{sshd,mke2fs} usr/lib/openssh/{sshd-session,sshd-auth,sftp-server}
case $arch in
  x86_64) loader=ld-linux-x86-64.so.2 && ln -s ../lib/$triplet/$loader "$root/usr/lib64/$loader" ;;
  aarch64) loader=ld-linux-aarch64.so.1 && ln -s $triplet/$loader "$root/usr/lib/$loader" ;;
esac
cp -L "$tree/$libs/$loader" "$root/$libs/$loader"
# Loaded by name: when a thread is cancelled, and by nix for its downloads.
cp -L "$tree/$libs/libgcc_s.so.1" "$tree/$libs/libnss_dns.so.2" "$root/$libs/"

for name in nix-build nix-collect-garbage nix-daemon nix-env nix-instantiate nix-store; do ln -s nix "$root/usr/bin/$name"; done
applets="[ awk basename cat chmod chown cp cut date dd df diff dirname dmesg du echo env expr false find free grep
  gunzip gzip head hostname id ip kill less ln ls md5sum mkdir mknod mktemp mount mv nproc od ps pwd readlink
  realpath rm rmdir sed seq sha256sum sleep sort stat sync tail tar tee test timeout top touch tr true umount
  uname uniq uptime vi wc wget which whoami xargs yes"
# The sandbox's /bin: a shell and the everyday tools, for derivations that have no stdenv.
cp "$root/usr/bin/busybox" "$root/usr/libexec/sandbox-bin/busybox"
cp "$root/usr/bin/bash-static" "$root/usr/libexec/sandbox-bin/sh"
ln -s sh "$root/usr/libexec/sandbox-bin/bash"
ln -s bash-static "$root/usr/bin/bash"
ln -s bash-static "$root/usr/bin/sh"
for applet in $applets; do
  ln -s busybox "$root/usr/bin/$applet"
  ln -s busybox "$root/usr/libexec/sandbox-bin/$applet"
done

builders=32
{
  echo 'root:x:0:0:root:/root:/bin/sh'
  echo 'sshd:x:22:22:sshd:/var/empty:/bin/false'
  echo 'builder:x:1000:100:builder:/home/builder:/bin/sh'
  for i in $(seq $builders); do echo "nixbld$i:x:$((30000 + i)):30000:build user $i:/var/empty:/bin/false"; done
  echo 'nobody:x:65534:65534:nobody:/var/empty:/bin/false'
} >"$root/etc/passwd"
{
  echo 'root:x:0:'
  echo 'sshd:x:22:'
  echo 'users:x:100:'
  echo "nixbld:x:30000:$(seq -s, -f 'nixbld%g' $builders)"
  echo 'nogroup:x:65534:'
} >"$root/etc/group"
sed 's/^\([^:]*\):.*/\1:*:20000:0:99999:7:::/' "$root/etc/passwd" >"$root/etc/shadow"
chmod 600 "$root/etc/shadow"
echo /bin/sh >"$root/etc/shells"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
ln -s ../run/resolv.conf "$root/etc/resolv.conf"
find "$tree/usr/share/ca-certificates/mozilla" -name '*.crt' | sort | xargs cat >"$root/etc/ssl/certs/ca-certificates.crt"
cp "$tree/etc/mke2fs.conf" "$root/etc/mke2fs.conf"
cp "$tree/etc/services" "$tree/etc/protocols" "$root/etc/" 2>/dev/null || true
cat >"$root/etc/nix/nix.conf" <<'CONF'
# A guest for tests: it fetches nothing by itself.
substituters =
flake-registry =
experimental-features = nix-command flakes local-overlay-store
build-users-group = nixbld
trusted-users = root builder
max-jobs = auto
sandbox = true
sandbox-paths = /bin=/usr/libexec/sandbox-bin
# The disk is a cache, made anew after an unclean stop, so nothing needs to be flushed for safety.
fsync-metadata = false
# Where the host's store is not shared; the agent collects garbage in any case. No max-free: an overlay's garbage is miscounted.
min-free = 268435456
# A build that has written nothing for so long hangs. A client's own limits do not reach this Nix.
max-silent-time = 7200
CONF
echo "Debian test guest of darwin-vz-nix" >"$root/etc/issue"

size=$(du -sm --apparent-size "$root" | cut -f1)
mke2fs -q -t ext4 -d "$root" -m 0 -E root_owner=0:0 -O ^has_journal,^resize_inode,^metadata_csum -N 2000 -U clear \
  "$new/system.img" $((size + size / 8 + 8))M >/dev/null
if [ "$(id -u)" != 0 ]; then # files must belong to root, whoever builds the image
  find "$root" -mindepth 1 -printf 'set_inode_field "/%P" uid 0\nset_inode_field "/%P" gid 0\n' >"$work/owners"
  debugfs -w -f "$work/owners" "$new/system.img" >/dev/null 2>"$work/debugfs.log" || die "$(tail -n1 "$work/debugfs.log")"
fi

# --- kernel ----------------------------------------------------------------------------------------------------------------

image=$(echo "$kernel_tree"/boot/vmlinuz-*)
[ -f "$image" ] || die "the kernel package has no single /boot/vmlinuz-*"
number() { od -An -v -t "u$3" -j $(($2)) -N "$3" "$1" | tr -d ' '; }
case $arch in
  x86_64) # the ELF kernel inside the bzImage: QEMU starts it without a boot loader, and nothing is decompressed at boot
    offset=$((($(number "$image" 0x1f1 1) + 1) * 512 + $(number "$image" 0x248 4)))
    length=$(($(number "$image" 0x24c 4) - 4))
    tail -c +$((offset + 1)) "$image" | head -c $length >"$work/vmlinux.z" || true # tail sees head close the pipe
    kernel=vmlinux
    decompress "$work/vmlinux.z" >"$new/$kernel"
    [ "$(bytes "$new/$kernel" 0 4)" = 7f454c46 ] || die "no ELF kernel in $image"
    ;;
  aarch64)
    kernel=Image
    decompress "$image" >"$new/$kernel"
    [ "$(bytes "$new/$kernel" 0x38 4)" = 41524d64 ] || die "$image is no arm64 Image"
    ;;
esac

# --- initial RAM disk: the agent and the modules it loads, in order ----------------------------------------------------------

modules="crc16 mbcache jbd2 crc32c_generic ext4 virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_console virtio_blk failover net_failover virtio_net
  vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport fuse virtiofs overlay rng-core virtio-rng
  button gpio-pl061 gpio_keys evdev"
# shellcheck disable=SC2086 # a list of words
take_modules "$kernel_tree" "$initrd/mods" $modules
cp "$agent" "$initrd/init"

newc() { # newc MODE NAME [FILE [MINOR]]: one entry of a cpio archive in the "newc" format, owned by root; MINOR of a memory device
  local size=0 name=$2 major=0 minor=${4:-0}
  [ "$minor" = 0 ] || major=1
  [ -z "${3:-}" ] || size=$(stat -c %s "$3")
  inode=$((inode + 1))
  printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
    $inode "$1" 0 0 1 0 "$size" 0 0 $major "$minor" $((${#name} + 1)) 0 "$name"
  pad $((110 + ${#name} + 1))
  [ -z "${3:-}" ] || cat "$3"
  pad "$size"
}
pad() { # to a multiple of four
  head -c $(((4 - $1 % 4) % 4)) /dev/zero
}
inode=0
{
  # Where the console's driver is a module, PID 1 starts without open files, and Rust's runtime needs this to open some.
  newc 0040755 dev
  newc 0020666 dev/null "" 3
  newc 0040755 mods
  for file in "$initrd"/mods/*; do newc 0100644 "mods/$(basename "$file")" "$file"; done
  newc 0100755 init "$initrd/init"
  newc 0 TRAILER!!!
} >"$new/initrd"

# --- guest.json ------------------------------------------------------------------------------------------------------------

# mitigations=off: the guest runs one user's builds and trusts them as much as that user does.
cmdline="panic=-1 quiet mitigations=off nokaslr lsm= apparmor=0 audit=0 cryptomgr.notests nowatchdog random.trust_cpu=on"
[ "$arch" != x86_64 ] || cmdline+=" no_timer_check tsc=reliable"
cat >"$new/guest.json" <<JSON
{
  "version": 1,
  "arch": "$arch",
  "kernel": "$kernel",
  "initrd": "initrd",
  "cmdline": "$cmdline",
  "images": [{ "file": "system.img", "role": "system", "readOnly": true }],
  "toplevel": null,
  "ssh": { "vsockPort": 22, "user": "builder" },
  "nix": { "vsockPort": 24 },
  "agent": { "protocol": 1 },
  "minimumDisk": 1073741824,
  "features": ["host-store"]
}
JSON
chmod 444 "$new"/*
mv -T "$new" "$bundle" 2>/dev/null || [ -e "$bundle/guest.json" ] # another build of the same may have won
finish
