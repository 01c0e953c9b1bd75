# Names that several parts must agree on, with each other and with the program (rust/ssh/keys.rs, rust/machine_dir.rs).
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
  machineDir = "${state}/machines/${machine}";
  # launchd writes what the program says before it has a log of its own.
  log = "${state}/launchd.log";
  service = "darwin-vz";
  label = "org.nixos.${service}";
}
