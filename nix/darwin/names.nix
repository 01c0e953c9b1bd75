# Names shared by several parts of the module and by the program (rust/guest/src/ssh/keys.rs,
# rust/host/src/machine_dir.rs).
{ cfg }:
rec {
  machine = "builder";
  # ssh's name for the guest.
  alias = "darwin-vz-${machine}";
  # Files that users other than the service's own may read: the pinned host key, and the user key where that is allowed.
  public = "/etc/darwin-vz-nix";
  knownHosts = "${public}/known_hosts";
  userKey = "${public}/id_ed25519";
  state = cfg.workingDirectory;
  # A directory that marks its parent as made by activation. Not a file: the service's user could replace that by a
  # link.
  marker = "${state}/.darwin-vz-nix";
  machineDir = "${machines}/${machine}";
  # HOME for the Nix commands of the daemon. Not the user's own home, which nix-darwin could never change again.
  home = "${state}/home";
  # launchd writes the program's output here until the program opens its own log.
  log = "${state}/launchd.log";
  machines = "${state}/machines";
  # All other contents of the directory (rust/host/src/machine_dir.rs), as shell patterns.
  contents = map (name: "${state}/${name}") [
    "lock"
    "api.sock"
    "api-token"
    "daemon.log*"
    "launchd.log*"
    "home"
  ];
  service = "darwin-vz";
  label = "org.nixos.${service}";
  plist = "/Library/LaunchDaemons/${label}.plist";
  # Files in /etc.
  sshConfig = "ssh/ssh_config.d/100-darwin-vz-nix.conf";
  configFile = "darwin-vz-nix/config.toml";
  newsyslog = "newsyslog.d/darwin-vz-nix.conf";
  # The longest that a connection waits for a guest: two boots of 180 s and the stop of an earlier guest
  # (rust/guest/src/ssh/block.rs).
  connectTimeoutSeconds = 390;
  # The program grants a guest 30 s to stop; launchd must grant the program more, or it would kill both.
  graceSeconds = 60;
}
