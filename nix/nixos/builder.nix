# Who builds, and how.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.darwin-vz-guest;
  inherit (config.nix) package;
in
{
  users.mutableUsers = false;
  users.allowNoPasswordLogin = true; # by key only
  users.users.root.hashedPassword = "!";
  users.users.builder = {
    isNormalUser = true;
    uid = 1000;
    # No password fits. Not `!`: sshd without PAM lets nobody in whose account is locked.
    hashedPassword = "*";
  };
  users.users.sshd = {
    isSystemUser = true;
    uid = 22;
    group = "sshd";
  };
  users.groups.sshd.gid = 22;

  nix.settings = {
    experimental-features = [
      "nix-command"
      "flakes"
      "local-overlay-store"
    ];
    trusted-users = [
      "root"
      "builder"
    ];
    max-jobs = lib.mkDefault "auto";
    sandbox = lib.mkDefault true;
    # The disk is a cache, made anew after an unclean stop, so nothing needs to be flushed for safety.
    fsync-metadata = lib.mkDefault false;
    # Where the host's store is not shared; the agent collects garbage in any case. No max-free: an overlay's garbage is miscounted.
    min-free = lib.mkDefault 268435456;
    # A build that has written nothing for so long hangs. A client's own limits do not reach this Nix.
    max-silent-time = lib.mkDefault 7200;
  };
  systemd.services.nix-daemon = {
    inherit (cfg) environment;
    # Written by the agent where the host's store is shared; and what Nix then needs to mount its store anew.
    serviceConfig.EnvironmentFile = "-/run/darwin-vz/nix-daemon.env";
    path = [ pkgs.util-linux ];
  };
  security.pki = { inherit (cfg) certificateFiles certificates; };

  # What sshd's own PATH has: a login for a command reads no profile.
  systemd.tmpfiles.rules =
    map (name: "L+ /usr/bin/${name} - - - - ${package}/bin/${name}") [
      "nix"
      "nix-daemon"
      "nix-store"
    ]
    ++ [
      "L+ /usr/sbin/sshd - - - - ${pkgs.openssh}/bin/sshd"
      "d /home/builder 0700 builder users -"
    ];
}
