# Build users and Nix settings.
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
    # No password matches. Not `!`: sshd without PAM refuses logins to locked accounts.
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
    # The disk is a cache, formatted after an unclean stop, so nothing needs a flush for safety.
    fsync-metadata = lib.mkDefault false;
    # Used where the host's store is not shared; the agent collects garbage in any case. No max-free: Nix miscounts an
    # overlay's garbage.
    min-free = lib.mkDefault 268435456;
    # A build that has written nothing for this long hangs. A client's own limits do not apply to this Nix.
    max-silent-time = lib.mkDefault 7200;
  };
  systemd.services.nix-daemon = {
    inherit (cfg) environment;
    # The agent writes it where the host's store is shared; Nix then needs `mount` to remount its store.
    serviceConfig.EnvironmentFile = "-/run/darwin-vz/nix-daemon.env";
    path = [ pkgs.util-linux ];
  };
  security.pki = { inherit (cfg) certificateFiles certificates; };

  # Programs on sshd's own PATH, as a login with a command reads no profile.
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
