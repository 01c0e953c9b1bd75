# shellcheck shell=bash
# A part of variants.sh: the test guest with Debian's systemd as PID 1, of the initrd and of the system. It is put together as the
# NixOS guest is:
#
#   initrd    root in memory; NixOS's units by their names; darwin-vz-disks.service out of tests/nix/guests.json
#   image     store paths, and Nix's database of them, by nix/nixos/database.sh. One path is Debian: all programs, systemd too, run
#             from the overlay at /nix/store, as in NixOS. The others have the names that tests/nix/guests.json gives
#   system    the guest's own units out of tests/nix/guests.json; with `systemd.unit=whole.target` on the command line udev, D-Bus,
#             logind, networkd and resolved as well
#
# Not NixOS's: activation (a short script here), and the image is ext4 instead of erofs.
: "${work:?}" "${new:?}" "${repo:?}" "${nixos:?}" "${here:?}"

# Of systemd's dependencies, what busybox does as well, or what is not run.
not_loaded='^(perl.*|adduser|passwd|login.*|debconf|dmsetup|libdevmapper.*|sensible-utils|init-system-helpers|tzdata|libsemanage.*|libsepol.*|debianutils|dash|bash|readline-common|coreutils|grep|sed|tar|gzip|findutils|logsave|util-linux.*|libkmod.*|kmod|netbase|ntp.*|libdb5.*|libgdbm.*|systemd-timesyncd|default-dbus.*|dbus-session.*|dbus-daemon|dbus-bin|libpam-.*|libdbus.*)$'
empty_hash=00000000000000000000000000000000
debian=/nix/store/$empty_hash-debian
toplevel=/nix/store/$empty_hash-nixos

# guest FILTER: strings of the NixOS guest, with store paths of this image
guest() { jq -r ".nixos | $1" "$nixos" | sed "s|/nix/store/…-|/nix/store/$empty_hash-|g"; }

# unit_of PATH: a unit of NixOS's as systemd reads it; its scripts are at $1.start and $1.stop of the directory $2
unit_of() {
  # shellcheck disable=SC2016  # variables of jq
  guest "$1"' as $unit | $unit |
    "[Unit]",
    (("After", "Before", "Conflicts", "Requires", "Wants") as $key | select(.[$key | ascii_downcase]) | "\($key)=\(.[$key | ascii_downcase] | join(" "))"),
    (.unitConfig // {} | to_entries[] | "\(.key)=\(.value)"),
    "[Service]",
    (.serviceConfig // {} | to_entries[] | "\(.key)=\(.value)"),
    (.environment // {} | to_entries[] | "Environment=\"\(.key)=\(.value)\""),
    "Environment=PATH=\([.path[]? | . + "/bin:"] | join(""))'"$debian"'/bin",
    (select(.script != []) | "ExecStart=/bin/sh -e '"$2"'.start"),
    (select(.preStop != []) | "ExecStop=/bin/sh -e '"$2"'.stop")'
}

# scripts_of PATH PREFIX: what unit_of refers to, as PREFIX.start and PREFIX.stop
scripts_of() {
  guest "$1.script[]" >"$2.start"
  guest "$1.preStop[]" >"$2.stop"
}

# wanted UNITS-DIRECTORY NAME wants|requires BY…
wanted() {
  local units=$1 name=$2 how=$3 by
  shift 3
  for by; do mkdir -p "$units/$by.$how" && ln -sf "/etc/systemd/system/$name" "$units/$by.$how/$name"; done
}

# prune USR: what a package would have enabled, and generators but that which systemd itself uses
prune() {
  rm -r "$1"/lib/systemd/system/*.wants "$1"/lib/systemd/network
  find "$1/lib/systemd/system-generators" -mindepth 1 ! -name systemd-fstab-generator -delete
}

systemd() {
  local prefix
  extract_agent
  prefix=$("$repo/tests/tools/debian-prefix.sh" --without './usr/share/doc' --without './usr/share/man' --without './usr/share/locale' \
    --without './usr/share/i18n' --without './usr/lib/*/gconv*' --skip "$not_loaded" \
    systemd-guest trixie systemd udev systemd-resolved dbus dbus-broker e2fsprogs mount | tail -n 1)/root
  systemd_initrd "$prefix"
  systemd_image "$prefix"
  jq --arg init "$toplevel/init" '.cmdline += " init=" + $init' "$new/guest.json" >"$work/guest.json"
  cp "$work/guest.json" "$new/guest.json"
}

systemd_initrd() {
  local root=$work/initrd units=$work/initrd/etc/systemd/system applet agent service
  mkdir -p "$units" "$root"/{proc,sys,dev,run,tmp,var,sysroot,mods,usr/bin}
  cp -a "$1/usr" "$root/"
  prune "$root/usr"
  for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$root/$directory"; done
  cp "$work/taken/busybox" "$root/usr/bin/"
  for applet in cat chmod chown chroot cp echo grep insmod ln mkdir poweroff rm sh sleep; do ln -s busybox "$root/usr/bin/$applet"; done
  ln -s /usr/lib/systemd/systemd "$root/init"
  agent=$(guest '.initrd.files[0]')
  mkdir -p "$root$(dirname "$agent")"
  cp "$work/agent" "$root$agent"
  printf '[Manager]\nLogTarget=console\nLogColor=no\nLogTime=yes\nDefaultTimeoutStartSec=120\n' >"$root/etc/systemd/system.conf"
  : >"$root/etc/initrd-release"
  : >"$root/etc/machine-id"
  ln -s /usr/lib/systemd/system/initrd.target "$units/default.target"
  scripts_of .initrd.services.\"darwin-vz-disks\" "$root/disks"
  # The test guest's kernel has no erofs.
  sed -i 's|^mount -t erofs |mount -t ext4 |' "$root/disks.start"
  # shellcheck disable=SC2016
  [ "$(grep -cE '^(/nix/store/.*/darwin-vz-agent initrd \$root|mount -t ext4) ' "$root/disks.start")" = 2 ] ||
    die "the NixOS guest's initrd has another script"
  # The buttons' drivers only if the guest names them; what else is in the list, the test guest's kernel needs.
  guest '.initrd.modules[]' | tr _ - >"$work/modules"
  cat >"$root/load" <<LOAD
while read -r module; do
  case \$module in button.ko|evdev.ko|gpio*) case " $(paste -sd' ' "$work/modules") " in *" \${module%.ko} "*) ;; *) continue ;; esac ;; esac
  insmod "/mods/\$module" 2>/dev/null || true
done </mods/list
LOAD
  cat >"$units/systemd-modules-load.service" <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -e /load
UNIT
  {
    echo '[Unit]'
    echo 'DefaultDependencies=no'
    echo 'Before=initrd-root-fs.target'
    echo '[Mount]'
    echo 'Where=/sysroot'
    guest '.root | "What=\(.device)", "Type=\(.fsType)", "Options=\(.options | join(","))"'
  } >"$units/sysroot.mount"
  cat >"$units/sysroot-run.mount" <<'UNIT'
[Unit]
DefaultDependencies=no
Before=initrd-fs.target
[Mount]
What=/run
Where=/sysroot/run
Options=rbind
UNIT
  unit_of .initrd.services.\"darwin-vz-disks\" /disks >"$units/darwin-vz-disks.service"
  cat >"$units/initrd-find-nixos-closure.service" <<UNIT
[Unit]
DefaultDependencies=no
RequiresMountsFor=/sysroot/nix/store
Before=initrd.target shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c '[ -e /sysroot$toplevel/init ] || { echo "FAILED: there is no system in /sysroot/nix/store" >/dev/console; poweroff -f; }'
UNIT
  cat >"$units/initrd-nixos-activation.service" <<UNIT
[Unit]
DefaultDependencies=no
After=initrd-switch-root.target
Before=initrd-switch-root.service
RequiresMountsFor=/sysroot/run
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'exec chroot /sysroot $toplevel/activate "\$\$(cat /proc/sys/kernel/random/uuid)"'
UNIT
  # Everything is said on the console.
  for service in initrd-udevadm-cleanup-db systemd-journald; do ln -s /dev/null "$units/$service.service"; done
  mkdir "$units/initrd-switch-root.service.d"
  printf '[Service]\nExecStart=\nExecStart=systemctl --no-block switch-root /sysroot ""\n' >"$units/initrd-switch-root.service.d/init.conf"
  wanted "$units" systemd-modules-load.service requires sysinit.target
  wanted "$units" sysroot.mount requires initrd-root-fs.target
  wanted "$units" sysroot-run.mount requires initrd-fs.target
  wanted "$units" initrd-find-nixos-closure.service requires initrd.target
  wanted "$units" initrd-nixos-activation.service requires initrd-switch-root.service
  # shellcheck disable=SC2046  # words
  wanted "$units" darwin-vz-disks.service requires $(guest '.initrd.services."darwin-vz-disks".requiredBy[]')
  append
}

systemd_image() {
  local store=$work/store name
  local root=$store/${debian##*/} system=$store/${toplevel##*/}
  mkdir -p "$root" "$system"
  debugfs -R "rdump /usr $root" "$DVN_TEST_BUNDLE/system.img" 2>/dev/null
  debugfs -R "rdump /etc $system" "$DVN_TEST_BUNDLE/system.img" 2>/dev/null
  grep -q '^sshd:' "$system/etc/passwd" || die "the test guest has no users"
  mkdir -p "$system/etc/systemd/system" "$system/scripts"
  cp -aT --remove-destination "$1/usr" "$root/usr"
  prune "$root/usr"
  mkdir "$root/bin"
  find "$root/usr/bin" "$root/usr/sbin" -mindepth 1 -printf '%f %h\n' | while read -r name dir; do
    ln -sf "../usr/${dir##*/}/$name" "$root/bin/$name"
  done
  # The packages that the guest names; all of them are Debian's but the agent.
  for name in $(jq -r '.nixos | .. | strings' "$nixos" | grep -o '/nix/store/…-[^/ ]*' | sed 's|.*…-||' | sort -u); do
    mkdir -p "$store/$empty_hash-$name"
    [ "$name" = darwin-vz-agent ] || ln -s "$debian/bin" "$store/$empty_hash-$name/bin"
  done
  mkdir -p "$store/$empty_hash-darwin-vz-agent/bin"
  cp "$work/agent" "$store/$empty_hash-darwin-vz-agent/bin/darwin-vz-agent"
  systemd_system "$system"
  registration "$store" >"$work/registration"
  (cd "$work" && PATH=$DVN_TEST_NIX:$PATH sh "$repo/nix/nixos/database.sh" "$work/registration" "$store/nix-db")
  rm "$new/system.img"
  mke2fs -q -t ext4 -d "$store" -m 0 -E root_owner=0:0 -O ^has_journal,^resize_inode,^metadata_csum -U clear \
    "$new/system.img" $(($(du -sm "$store" | cut -f1) * 6 / 5 + 16))M >/dev/null
  belongs_to_root "$store" "$new/system.img"
}

# registration STORE: closureInfo's of these paths, as if the system needed all others
registration() {
  local path others
  for path in "$1"/*; do
    path=/nix/store/${path##*/}
    printf '%s\n%064d\n1\n\n' "$path" 0
    if [ "$path" = "$toplevel" ]; then
      mapfile -t others < <(find "$1" -mindepth 1 -maxdepth 1 ! -name "${toplevel##*/}" -printf '/nix/store/%f\n' | sort)
      printf '%s\n' "${#others[@]}" "${others[@]}"
    else
      echo 0
    fi
  done
}

systemd_system() {
  local system=$1 units=$1/etc/systemd/system service
  local etc=$1/etc
  : >"$system/init"
  cat >"$system/activate" <<ACTIVATE
#!$debian/usr/bin/busybox sh
# What NixOS's activation does, as far as the units here need it.
b=$debian/usr/bin/busybox
\$b mkdir -p /usr/bin /usr/sbin /etc /dev /proc /sys /run /root /home /mnt /var/lib /var/log /var/empty
\$b chmod 700 /root
for directory in lib lib64 libexec share; do \$b ln -s $debian/usr/\$directory /usr/\$directory; done
for directory in bin sbin lib lib64; do \$b ln -s usr/\$directory /\$directory; done
\$b ln -s $debian/usr/bin/* /usr/bin/
\$b ln -s $debian/usr/sbin/* /usr/sbin/
\$b ln -s /run /var/run
\$b ln -s /tmp /var/tmp
\$b cp -R $toplevel/etc/. /etc/
\$b chown -R 0:0 /etc
\$b chmod 600 /etc/shadow
echo "\$1" | \$b tr -d - >/etc/machine-id
\$b ln -sfn $toplevel /run/current-system
\$b ln -sfn $toplevel /run/booted-system
ACTIVATE
  chmod 755 "$system/activate"
  printf 'ID=debian\nNAME=Debian\n' >"$etc/os-release"
  printf '[Manager]\nLogTarget=console\nLogColor=no\nLogTime=yes\nDefaultTimeoutStartSec=120\n' >"$etc/systemd/system.conf"
  printf 'systemd-network:x:997:997::/:/bin/false\nsystemd-resolve:x:996:996::/:/bin/false\nmessagebus:x:995:995::/:/bin/false\n' >>"$etc/passwd"
  printf 'systemd-journal:x:998:\nsystemd-network:x:997:\nsystemd-resolve:x:996:\nmessagebus:x:995:\ntty:x:5:\nutmp:x:43:\ninput:x:994:\nkvm:x:993:\nrender:x:992:\nsgx:x:991:\ndisk:x:6:\ndialout:x:20:\ncdrom:x:24:\ntape:x:26:\nvideo:x:44:\naudio:x:29:\nlp:x:7:\nkmem:x:15:\n' >>"$etc/group"
  ln -sf /run/systemd/resolve/stub-resolv.conf "$etc/resolv.conf"
  mkdir -p "$etc/systemd/network" "$etc/systemd/resolved.conf.d" "$etc/systemd/logind.conf.d" "$etc/tmpfiles.d"
  { echo '[Resolve]'; guest '.resolved | to_entries[] | "\(.key)=\(.value)"'; } >"$etc/systemd/resolved.conf.d/guest.conf"
  printf '[Login]\nHandlePowerKey=%s\n' "$(guest .powerKey)" >"$etc/systemd/logind.conf.d/guest.conf"
  guest '.networks | to_entries[] | .key' | while read -r name; do
    guest ".networks.\"$name\""' | to_entries[] | "[\(.key | {matchConfig: "Match", networkConfig: "Network"}[.])]", (.value | to_entries[] | "\(.key)=\(.value)")' \
      >"$etc/systemd/network/$name.network"
  done
  # The guest's, and of NixOS's what they build on.
  guest '.tmpfiles[]' >"$etc/tmpfiles.d/guest.conf"
  cat >"$etc/tmpfiles.d/nixos.conf" <<'TMPFILES'
d  /nix/var                           0755 root root - -
d  /nix/var/nix/daemon-socket         0755 root root - -
L+ /nix/var/nix/gcroots/booted-system 0755 root root - /run/booted-system
R! /nix/var/nix/gcroots/tmp           -    -    -    - -
R! /nix/var/nix/temproots             -    -    -    - -
TMPFILES
  ln -s /usr/lib/systemd/system/multi-user.target "$units/default.target"
  ln -s /usr/lib/systemd/system/dbus-broker.service "$units/dbus.service"
  # Modules, which the initrd has loaded; credentials and devices, of which there are none.
  local idle='modprobe@ systemd-remount-fs systemd-udev-load-credentials systemd-networkd-persistent-storage'
  for service in $idle; do ln -s /dev/null "$units/$service.service"; done
  # Of hundreds of devices, those that a program here asks udev for.
  mkdir "$units/systemd-udev-trigger.service.d"
  cat >"$units/systemd-udev-trigger.service.d/few.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=input --subsystem-match=net --subsystem-match=block
UNIT
  # As Nix's package has them.
  cat >"$units/nix-daemon.socket" <<'UNIT'
[Unit]
Before=multi-user.target
RequiresMountsFor=/nix/store
ConditionPathIsReadWrite=/nix/var/nix/daemon-socket
[Socket]
ListenStream=/nix/var/nix/daemon-socket/socket
UNIT
  cat >"$units/nix-daemon.service" <<UNIT
[Unit]
RequiresMountsFor=/nix/store /nix/var /nix/var/nix/db
ConditionPathIsReadWrite=/nix/var/nix/daemon-socket
Requires=nix-daemon.socket
[Service]
ExecStart=@$debian/usr/bin/nix-daemon nix-daemon --daemon
KillMode=process
LimitNOFILE=1048576
TasksMax=1048576
Delegate=yes
UNIT
  mkdir "$units/nix-daemon.service.d"
  for service in $(guest '.services | keys[]'); do
    case $service in
      darwin-vz-rosetta) continue ;; # of a Mac alone
      nix-daemon) unit_of ".services.\"$service\"" "$toplevel/scripts/$service" >"$units/nix-daemon.service.d/guest.conf" ;;
      *)
        unit_of ".services.\"$service\"" "$toplevel/scripts/$service" >"$units/$service.service"
        scripts_of ".services.\"$service\"" "$system/scripts/$service"
        # shellcheck disable=SC2046  # words
        wanted "$units" "$service.service" wants $(guest ".services.\"$service\".wantedBy // [] | .[]")
        # shellcheck disable=SC2046
        wanted "$units" "$service.service" requires $(guest ".services.\"$service\".requiredBy // [] | .[]")
        ;;
    esac
  done
  wanted "$units" nix-daemon.socket wants sockets.target
  # What NixOS starts of systemd's own: what a boot takes, and the rest in a target for the command line (systemd.unit=whole.target),
  # as each costs seconds of a translated guest.
  printf '[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\n' >"$units/whole.target"
  local upstream='sysinit.target systemd-journald.service systemd-tmpfiles-setup.service
    sockets.target systemd-journald.socket systemd-journald-dev-log.socket
    whole.target systemd-udevd.service systemd-udev-trigger.service systemd-logind.service dbus.socket dbus-broker.service
    systemd-networkd.service systemd-networkd.socket systemd-resolved.service' word target=
  for word in $upstream; do
    case $word in
      *.target) target=$word && mkdir -p "$units/$target.wants" ;;
      *) ln -s "/usr/lib/systemd/system/$word" "$units/$target.wants/$word" ;;
    esac
  done
}
