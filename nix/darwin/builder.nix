# Registers the machine as a builder with Nix.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.darwin-vz;
  names = import ./names.nix { inherit cfg; };
  inherit (import ./yielding.nix { inherit lib; }) yielding;
  direct = cfg.door == "direct";

  # The program that Nix runs, as root, for the direct door. The service's user can write the script of the same name in
  # the state directory, so root must not run that one. Exit code 4 means that no daemon answers; nothing has been read
  # from Nix at that point, so the script tries again, for 20 s, as launchd starts nothing twice within ten.
  connectProgram = pkgs.writeShellScript "darwin-vz-nix-connect" ''
    set -u
    attempt=0
    while :; do
      code=0
      ${cfg.package}/bin/darwin-vz-nix --state-dir ${names.state} --machine ${names.machine} connect "$@" || code=$?
      if [ "$code" -ne 4 ] || [ "$attempt" -ge 200 ]; then exit "$code"; fi
      [ "$attempt" -gt 0 ] || /bin/launchctl kickstart system/${names.label} >&2 || exit "$code"
      attempt=$((attempt + 1))
      /bin/sleep 0.1
    done
  '';

  machine = {
    hostName = if direct then "localhost?remote-program=${cfg.connectProgram}" else names.alias;
    sshUser = if direct then null else "builder";
    sshKey = if direct then null else "${names.machineDir}/id_ed25519";
    # The host key is made on this Mac, so the configuration cannot contain it; ssh has it pinned
    # (`UserKnownHostsFile`).
    publicHostKey = null;
    inherit (cfg)
      protocol
      systems
      maxJobs
      speedFactor
      supportedFeatures
      ;
  };

  orDash = value: if value == null then "-" else value;
  commas = list: if list == [ ] then "-" else lib.concatStringsSep "," list;
  # A line of /etc/nix/machines, for a Nix that nix-darwin does not manage.
  line = lib.concatStringsSep " " [
    "${machine.protocol}://${
      lib.optionalString (machine.sshUser != null) "${machine.sshUser}@"
    }${machine.hostName}"
    (commas machine.systems)
    (orDash machine.sshKey)
    (toString machine.maxJobs)
    (toString machine.speedFactor)
    (commas machine.supportedFeatures)
    "-"
    (orDash machine.publicHostKey)
  ];
in
{
  options.services.darwin-vz.connectProgram = lib.mkOption {
    type = lib.types.package;
    internal = true;
    readOnly = true;
    description = "The program that Nix runs for the direct door.";
  };

  config.services.darwin-vz = { inherit connectProgram; };

  # Nix reads this file by default: `builders = @/etc/nix/machines`.
  config.environment.etc."nix/machines" = lib.mkIf (cfg.enable && !config.nix.enable) {
    text = line + "\n";
  };

  config.nix = lib.mkIf (cfg.enable && config.nix.enable) {
    # assertions.nix reports other values.
    distributedBuilds = yielding true;
    buildMachines = [ machine ];
    settings.builders-use-substitutes = yielding true;
  };
}
