# Names that several parts must agree on, with each other and with the program (rust/guest/src/ssh/keys.rs, rust/host/src/machine_dir.rs).
{ cfg }:
rec {
  machine = "builder";
  # The name under which ssh knows the guest.
  alias = "darwin-vz-${machine}";
  # What users other than the service's own may read: the pinned host key, and the user key where that is allowed.
  public = "/etc/darwin-vz-nix";
  knownHosts = "${public}/known_hosts";
  userKey = "${public}/id_ed25519";
  state = cfg.workingDirectory;
  # A directory, which tells that activation made its parent for us. The service's user could make a link of a file.
  marker = "${state}/.darwin-vz-nix";
  machineDir = "${machines}/${machine}";
  # Of the Nix that the daemon runs. The user's own home is no directory of ours: it could never be changed again.
  home = "${state}/home";
  # launchd writes what the program says before it has a log of its own.
  log = "${state}/launchd.log";
  machines = "${state}/machines";
  # All else that there is in the directory (rust/host/src/machine_dir.rs), as patterns of the shell's.
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
  # Files of ours in /etc.
  sshConfig = "ssh/ssh_config.d/100-darwin-vz-nix.conf";
  configFile = "darwin-vz-nix/config.toml";
  newsyslog = "newsyslog.d/darwin-vz-nix.conf";
  # The longest that a connection waits for a guest: two boots of 180 s and the stop of the guest before (rust/guest/src/ssh/block.rs).
  patienceSeconds = 390;
  # The program's own grace for a guest is 30 s; launchd's for the program must be longer, or it would kill both.
  graceSeconds = 60;
}
