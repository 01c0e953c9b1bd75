# The contents of the base guest's system image, as data: PATH = { link = TARGET; } | { text = …; mode = "0644"; } |
# { directory = MODE; } | { files = [ … ]; }, which are joined. docs/guest-contract.md, "Inside the guest".
{
  lib,
  # Prefixes of the packages; `busyboxShell` is static, for the builds' sandbox.
  nix,
  openssh,
  e2fsprogs,
  busybox,
  busyboxShell,
  certificates,
  environment,
}:
let
  builders = 32;
  numbered = f: lib.concatMapStrings (n: f (toString n)) (lib.range 1 builders);
  applets = lib.splitString " " (
    "[ awk base64 basename cat chmod chown cp cut date dd df diff dirname dmesg du echo env expr false find free grep"
    + " gunzip gzip head hostname id ip kill less ln ls md5sum mkdir mknod mktemp mount mv nproc od ps pwd readlink"
    + " realpath rm rmdir sed seq sha256sum sleep sort stat sync tail tar tee test timeout top touch tr true umount"
    + " uname uniq uptime vi wc wget which whoami xargs yes"
  );
  nixPrograms = [
    "nix"
    "nix-build"
    "nix-collect-garbage"
    "nix-daemon"
    "nix-env"
    "nix-instantiate"
    "nix-store"
  ];
  links =
    prefix: names: target:
    map (name: lib.nameValuePair "${prefix}/${name}" { link = target name; }) names;
  text = mode: content: {
    inherit mode;
    text = content;
  };
in
lib.listToAttrs (
  map (name: lib.nameValuePair name { directory = "0755"; }) [
    "/darwin-vz"
    "/data"
    "/dev"
    "/etc/nix"
    "/home"
    "/mnt"
    "/nix/store"
    "/nix/var"
    "/proc"
    "/root"
    "/run"
    "/sys"
    "/usr/bin"
    "/usr/sbin"
    "/var/empty"
  ]
  ++ links "" [ "bin" "sbin" ] (name: "usr/${name}")
  ++ links "/usr/bin" nixPrograms (name: "${nix}/bin/${name}")
  ++ links "/usr/bin" applets (_: "${busybox}/bin/busybox")
)
// {
  "/tmp".directory = "1777";
  "/var/run".link = "../run";
  "/var/tmp".link = "../tmp";
  "/usr/bin/sh".link = "${busybox}/bin/busybox";
  "/usr/sbin/sshd".link = "${openssh}/bin/sshd";
  "/usr/sbin/mke2fs".link = "${e2fsprogs}/bin/mke2fs";

  "/etc/passwd" = text "0644" (
    ''
      root:x:0:0:root:/root:/bin/sh
      sshd:x:22:22:sshd:/var/empty:/bin/false
      builder:x:1000:100:builder:/home/builder:/bin/sh
    ''
    + numbered (
      n: "nixbld${n}:x:${toString (30000 + lib.toInt n)}:30000:build user ${n}:/var/empty:/bin/false\n"
    )
    + "nobody:x:65534:65534:nobody:/var/empty:/bin/false\n"
  );
  "/etc/group" = text "0644" ''
    root:x:0:
    sshd:x:22:
    users:x:100:
    nixbld:x:30000:${lib.concatMapStringsSep "," (n: "nixbld${toString n}") (lib.range 1 builders)}
    nogroup:x:65534:
  '';
  # No password. Not `!`, which means a locked account: sshd refuses logins to those.
  "/etc/shadow" = text "0600" (
    ''
      root:*:20000:0:99999:7:::
      sshd:*:20000:0:99999:7:::
      builder:*:20000:0:99999:7:::
    ''
    + numbered (n: "nixbld${n}:*:20000:0:99999:7:::\n")
    + "nobody:*:20000:0:99999:7:::\n"
  );
  "/etc/shells" = text "0644" "/bin/sh\n";
  "/etc/nsswitch.conf" = text "0644" "passwd: files\ngroup: files\nhosts: files dns\n";
  "/etc/hosts" = text "0644" "127.0.0.1 localhost\n";
  "/etc/resolv.conf".link = "../run/resolv.conf";
  "/etc/services" = text "0644" "http 80/tcp\nhttps 443/tcp\n";
  "/etc/protocols" = text "0644" "icmp 1\ntcp 6\nudp 17\n";
  "/etc/ssl/certs/ca-certificates.crt".files = certificates;
  "/etc/nix/nix.conf" = text "0644" ''
    experimental-features = nix-command flakes local-overlay-store
    build-users-group = nixbld
    trusted-users = root builder
    max-jobs = auto
    sandbox = true
    sandbox-paths = /bin/sh=${busyboxShell}/bin/busybox
    # The disk is a cache, formatted after an unclean stop, so nothing needs a flush for safety.
    fsync-metadata = false
    # Used where the host's store is not shared; the agent collects garbage in any case. No max-free: Nix miscounts an
    # overlay's garbage.
    min-free = 268435456
    # A build that has written nothing for this long hangs. A client's own limits do not apply to this Nix.
    max-silent-time = 7200
  '';
  # The agent passes these to nix-daemon.
  "/etc/nix/environment" = text "0644" (
    lib.concatStrings (lib.mapAttrsToList (name: value: "${name}=${value}\n") environment)
  );
}
