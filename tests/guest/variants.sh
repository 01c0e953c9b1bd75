#!/usr/bin/env bash
# The test guest in the shapes of this project's other guests, so that what is special about them really boots:
#
#   variants.sh service   PID 1 is another program (here a shell); the agent is called as `initrd` and `service`, as in NixOS. The
#                         initrd mounts what the NixOS guest's does: by the same text, out of tests/nix/guests.json
#   variants.sh systemd   PID 1 is Debian's systemd, with the NixOS guest's own units and scripts (systemd.sh)
#   variants.sh packed    its programs are a Nix store path, packed by nix/base-guest/pack.py with the base guest's own layout
#
# Prints the bundle's directory. Each is made from the bundle of build.sh for this machine's architecture and cached beside it.
set -euo pipefail
: "${DVN_TEST_BUNDLE:?run this as: make check-guests}" "${DVN_TEST_NIX:?}" "${DVN_CACHE:?}"
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
PATH=$PATH:/usr/sbin:/sbin
variant=${1:-}
die() { echo "variants: $*" >&2; exit 1; }

nixos=$repo/tests/nix/guests.json
key=$(cat "$here"/{variants,systemd}.sh "$DVN_TEST_BUNDLE"/{guest.json,initrd} "$repo"/nix/base-guest/* "$repo/nix/nixos/database.sh" \
  "$repo/tests/nix/mini/lib.nix" "$nixos" | sha256sum | cut -c1-24)
bundle=$DVN_CACHE/guests/$variant-$key
if [ -e "$bundle/guest.json" ]; then echo "$bundle"; exit; fi
work=$(mktemp -d "$DVN_CACHE/guests/.variant.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
new=$work/bundle
# shellcheck source=tests/guest/systemd.sh
. "$here/systemd.sh"
mkdir "$new"
cp "$DVN_TEST_BUNDLE"/* "$new"
chmod u+w "$new"/*

# take PATH…: files of the test guest's system image
take() {
  mkdir -p "$work/taken"
  for path; do
    debugfs -R "dump -p $path $work/taken/$(basename "$path")" "$DVN_TEST_BUNDLE/system.img" 2>/dev/null
    [ -s "$work/taken/$(basename "$path")" ] || die "the test guest has no $path"
  done
}

# The agent, out of the test guest's initrd, to $work/agent; busybox, out of its image.
extract_agent() {
  local agent=$work/agent
  take /usr/bin/busybox
  mkdir -p "$work/initrd"
  python3 - "$new/initrd" "$agent" <<'PY'
import sys
# The agent out of the initrd: the entry `init` of an archive in the "newc" format.
data, at = open(sys.argv[1], "rb").read(), 0
while True:
    size, length = int(data[at + 54 : at + 62], 16), int(data[at + 94 : at + 102], 16)
    name = data[at + 110 : at + 110 + length - 1].decode()
    start = at + 110 + length + -(110 + length) % 4
    if name == "init":
        open(sys.argv[2], "wb").write(data[start : start + size])
        break
    at = start + size + -size % 4
PY
  chmod 755 "$agent"
}

# The agent, the script of the NixOS guest's initrd, and what is PID 1 of the system.
another_pid_1() {
  extract_agent
  cp "$work/agent" "$work/initrd/agent"
  # The agent is elsewhere, and Debian's image, which has no /nix/.image, is the root already.
  jq -r '.nixos.initrd.services["darwin-vz-disks"].script[]' "$nixos" |
    sed -e 's|^/nix/store/[^ ]*/darwin-vz-agent initrd |/agent initrd |' \
      -e 's|^mount -t erofs -o ro /dev/vda \(.*\)|mount -t tmpfs image \1; mkdir \1/nix-db|' >"$work/initrd/disks"
  [ "$(grep -cE '^(/agent initrd|mount -t tmpfs image) ' "$work/initrd/disks")" = 2 ] || die "the NixOS guest's initrd has another script"
  jq '.cmdline += " init=/nix/store/00000000000000000000000000000000-nixos/init"' "$new/guest.json" >"$work/guest.json"
  cp "$work/guest.json" "$new/guest.json"
  cat >"$work/initrd/system" <<'SYSTEM'
# PID 1 of the system.
b=/run/busybox
umask 022
off() {
  trap '' USR1
  $b kill -TERM -1
  $b sleep 0.5
  $b kill -KILL -1
  for target in /tmp /nix/var /nix/store /data/nix /data; do $b umount "$target" || $b mount -o remount,ro "$target"; done
  $b poweroff -f
}
trap off USR1
for target in /data /data/nix /nix/store /nix/var /tmp; do
  $b grep -q " $target " /proc/mounts || { echo "FAILED: the initrd has not mounted $target"; $b poweroff -f; }
done
$b mount -t sysfs sys /sys
$b mount -t cgroup2 cgroup /sys/fs/cgroup
for tmpfs in /root /home; do $b mount -t tmpfs tmpfs $tmpfs; done
$b mkdir -p /dev/pts /dev/shm /home/builder
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs -o mode=1777 shm /dev/shm
for link in "fd /proc/self/fd" "stdin fd/0" "stdout fd/1" "stderr fd/2"; do set -- $link; $b ln -sfn $2 /dev/$1; done
$b chown 1000:100 /home/builder
$b ip link set lo up
export PATH=/run/bin:/usr/sbin:/usr/bin HOME=/root
# The power button: one press is one event of a device.
for device in /dev/input/event*; do
  { $b dd if=$device of=/dev/null bs=24 count=1 2>/dev/null; $b kill -USR1 1; } &
done
while :; do
  (while read -r variable; do export "$variable"; done 2>/dev/null </run/darwin-vz/nix-daemon.env; exec /usr/bin/nix-daemon)
  $b sleep 0.1
done &
while :; do /run/agent service; $b sleep 1; done &
while :; do wait; $b sleep 1 & wait $!; done
SYSTEM
}

# belongs_to_root DIRECTORY IMAGE: files of an image belong to root, whoever made it from that directory
belongs_to_root() {
  [ "$(id -u)" != 0 ] || return 0
  find "$1" -mindepth 1 -printf 'set_inode_field "/%P" uid 0\nset_inode_field "/%P" gid 0\n' >"$work/owners"
  debugfs -w -f "$work/owners" "$2" >/dev/null 2>"$work/debugfs.log" || die "$(tail -n1 "$work/debugfs.log")"
}

# A second archive: what it has replaces what the first has.
append() {
  python3 - "$repo/nix/base-guest" "$work/initrd" "$new/initrd" <<'PY'
import os, sys
sys.path.insert(0, sys.argv[1])
import pack
with open(sys.argv[3], "ab") as out:
    out.write(bytes(-out.tell() % 4))
    archive = pack.Cpio(out)
    for directory, directories, files in os.walk(sys.argv[2]):
        relative = os.path.relpath(directory, sys.argv[2])
        if relative != ".":
            archive.add(relative, 0o40755)
        for name in sorted(directories + files):
            path = os.path.join(directory, name)
            inside = os.path.normpath(os.path.join(relative, name))
            if os.path.islink(path):
                archive.add(inside, 0o120777, os.fsencode(os.readlink(path)))
            elif name in files:
                archive.add(inside, 0o100755 if os.access(path, os.X_OK) else 0o100644, pack.read(path))
    archive.add("TRAILER!!!", 0)
PY
}

service() {
  another_pid_1
  mkdir -p "$work/initrd/bin"
  cp "$work/taken/busybox" "$work/initrd/bin/busybox"
  # What systemd does in NixOS: the initrd's part, then the system's.
  cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /dev /run /sysroot
$b --install -s /bin
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs -o mode=755 run /run
exec </dev/console >/dev/console 2>&1
while read -r module; do $b insmod "/mods/$module" 2>/dev/null; done </mods/list
while ! [ -b /dev/vdb ]; do $b sleep 0.05; done
$b mount -t ext4 -o ro /dev/vda /sysroot
mke2fs=/sysroot/usr/sbin/mke2fs
$b mkdir -p /usr/sbin
# mke2fs is dynamic; in NixOS the initrd has what it needs.
printf '#!/bin/busybox sh\nexec /bin/busybox chroot /sysroot /usr/sbin/mke2fs "$@"\n' >/usr/sbin/mke2fs
$b chmod 755 /usr/sbin/mke2fs
$b mount --bind /dev /sysroot/dev
for tmpfs in /mnt /nix; do $b mount -t tmpfs tmpfs /sysroot$tmpfs; done
# As systemd does when it starts, and takes back when it switches the root.
$b mount --make-rshared /
$b sh -e /disks || $b poweroff -f
$b mount --make-rprivate /
$b umount /sysroot/dev
$b mount --move /run /sysroot/run
$b cp /agent /system /bin/busybox /sysroot/run/
$b mkdir -p /sysroot/run/bin
printf '#!/run/busybox sh\nexec /run/busybox kill -USR1 1\n' >/sysroot/run/bin/systemctl
$b chmod 755 /sysroot/run/bin/systemctl
$b mount --move /dev /sysroot/dev
$b mount --move /proc /sysroot/proc
exec $b switch_root /sysroot /run/busybox sh /run/system
INIT
  chmod 755 "$work/initrd/init"
  append
}

packed() {
  local store=/nix/store prefix=/nix/store/00000000000000000000000000000000-debian
  local root=$work/store$prefix libraries loader tools patchelf program file
  mkdir -p "$root" "$work/image"
  debugfs -R "rdump /usr $root" "$DVN_TEST_BUNDLE/system.img" 2>/dev/null
  debugfs -R "dump /etc/ssl/certs/ca-certificates.crt $work/ca.crt" "$DVN_TEST_BUNDLE/system.img" 2>/dev/null
  libraries=$(find "$root/usr/lib" -name 'ld-linux*' -type f -printf '%h\n' | head -n 1)
  [ -n "$libraries" ] || die "the test guest has no loader"
  # Debian's, newer than this machine's C library may be: run by its own loader.
  tools=$("$repo/tests/tools/debian-prefix.sh" patchelf trixie patchelf | tail -n 1)/root
  patchelf=("$(find "$tools" -name 'ld-linux*' | head -n 1)"
    --library-path "$(find "$tools" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)" "$tools/usr/bin/patchelf")
  loader=$prefix/${libraries#"$root/"}/$(basename "$(find "$libraries" -name 'ld-linux*' | head -n 1)")
  for program in nix sshd mke2fs sshd-session sshd-auth; do
    file=$(find "$root/usr" -name "$program" -type f | head -n 1)
    [ -z "$file" ] || "${patchelf[@]}" --force-rpath --set-interpreter "$loader" --set-rpath "$prefix/${libraries#"$root/"}" "$file"
  done
  # As a Nix package: one prefix with bin.
  ln -s usr/bin "$root/bin"
  cp -P "$root"/usr/sbin/* "$root/usr/bin/"
  NIX_REMOTE="local?root=$work/nix" "$DVN_TEST_NIX/nix-instantiate" --eval --strict --json --expr "
    import $repo/nix/base-guest/layout.nix {
      lib = import $repo/tests/nix/mini/lib.nix;
      nix = \"$prefix\"; openssh = \"$prefix\"; e2fsprogs = \"$prefix\"; busybox = \"$prefix\"; busyboxShell = \"$prefix\";
      certificates = [ \"$work/ca.crt\" ];
      environment = { };
    } // {
      # Debian's programs know each other by these names; a package of nixpkgs knows its store path.
      \"/usr/lib/openssh\".link = \"$prefix/usr/lib/openssh\";
    }" | jq --arg conf 'substituters =
flake-registry =
' '.["/etc/nix/nix.conf"].text += $conf' >"$work/layout.json"
  echo "$prefix" >"$work/closure"
  # Read as from /: the certificates' path is real, the store is not.
  mkdir -p "$work/store$work"
  cp "$work/ca.crt" "$work/store$work/ca.crt"
  python3 "$repo/nix/base-guest/pack.py" image --closure "$work/closure" --layout "$work/layout.json" \
    --root "$work/store" --out "$work/system.tar"
  ! tar -tf "$work/system.tar" | grep -q "^${store#/}/." || die "something is in $store, where the data disk's directory will be"
  tar -xpf "$work/system.tar" -C "$work/image"
  rm "$new/system.img"
  mke2fs -q -t ext4 -d "$work/image" -m 0 -E root_owner=0:0 -O ^has_journal,^resize_inode,^metadata_csum -U clear \
    "$new/system.img" $(($(du -sm "$work/image" | cut -f1) * 5 / 4 + 16))M >/dev/null
}

case $variant in
  service | systemd | packed) $variant ;;
  *) die "give a variant: service, systemd or packed" ;;
esac
chmod 444 "$new"/*
mv -T "$new" "$bundle" 2>/dev/null || [ -e "$bundle/guest.json" ]
echo "$bundle"
