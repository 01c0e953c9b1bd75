# shellcheck shell=sh
# Makes the data disk read-only, which marks it clean. Logins and builds outlive the services that started them and hold
# files of the disk, so they get SIGTERM, and SIGKILL after half a second.

read_only() { mount -o remount,ro /data 2>/dev/null; }

# left_behind: the control groups of inactive units that still have processes, except for this script's own.
left_behind() {
  for group in /sys/fs/cgroup/*.slice/*.service /sys/fs/cgroup/*.slice/*.scope /sys/fs/cgroup/*.slice/*.slice/*.service \
    /sys/fs/cgroup/*.slice/*.slice/*.scope; do
    unit=${group##*/}
    if ! [ -e "$group/cgroup.kill" ] || [ "$unit" = darwin-vz-leave-clean.service ]; then continue; fi
    case $(cat "$group/cgroup.events" 2>/dev/null) in *"populated 1"*) ;; *) continue ;; esac
    systemctl --quiet is-active "$unit" || echo "$group"
  done
}

# within HUNDREDTHS: until the disk is read-only, or that time has passed
within() {
  tries=0
  until read_only; do
    tries=$((tries + 5))
    [ "$tries" -lt "$1" ] || return 1
    sleep 0.05
  done
}

sync
if ! read_only; then
  left_behind | while read -r group; do
    # shellcheck disable=SC2046  # words
    kill -TERM $(cat "$group/cgroup.procs" "$group"/*/cgroup.procs 2>/dev/null) 2>/dev/null || true
  done
  if ! within 50; then
    left_behind | while read -r group; do echo 1 >"$group/cgroup.kill"; done
    within 500 ||
      echo "darwin-vz-leave-clean: something still writes to the data disk, so it is not left clean and the next boot makes it anew: $(mount -o remount,ro /data 2>&1)"
  fi
fi
