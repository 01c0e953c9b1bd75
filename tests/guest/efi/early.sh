# shellcheck shell=dash
# What PID 1 of a medium does first, and how it hears the power button. To be sourced by busybox's sh.
#
#   begin                            mounts, loads modules, and speaks on $console from now on
#   at_power_button COMMAND WORD…    runs the command when the power button is pressed, also if that is before this returns
begin() {
  /bin/busybox --install -s /bin
  export PATH=/bin
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t devtmpfs devtmpfs /dev
  # Into the kernel, in the order in which they need each other.
  while read -r module; do insmod "/modules/$module"; done </modules/list
  # Virtualization has the console of virtio, QEMU a serial port.
  for console in hvc0 ttyAMA0 ttyS0; do
    if [ -c "/dev/$console" ] && (: >"/dev/$console") 2>/dev/null; then
      exec </dev/null >"/dev/$console" 2>&1
      return
    fi
  done
}

# Each button has a device that says nothing until it is pressed. What is pressed before it is open is lost.
at_power_button() {
  descriptor=3
  for device in /sys/class/input/event*; do
    case $(cat "$device/device/name" 2>/dev/null) in
      *Power*)
        eval "exec $descriptor</dev/input/${device##*/}"
        { eval "head -c 1 <&$descriptor >/dev/null"; "$@"; } &
        descriptor=$((descriptor + 1))
        ;;
    esac
  done
}
