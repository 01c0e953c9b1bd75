# What `make demo` builds. The host is told to build nothing itself, so this runs in a guest, and says in which.
{ system, door }:
derivation {
  name = "demo-through-the-${door}-door";
  inherit system;
  builder = "/bin/sh";
  args = [
    "-c"
    ''
      read -r kernel < /proc/sys/kernel/osrelease
      read -r host_name < /proc/sys/kernel/hostname
      read -r boot_id < /proc/sys/kernel/random/boot_id
      echo "kernel: $kernel"
      echo "host name: $host_name (as Nix's sandbox shows it)"
      echo "boot id: $boot_id"
      echo "$kernel $boot_id" > $out
    ''
  ];
}
