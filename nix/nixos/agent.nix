# The agent as a service: the only access to the guest, over vsock. No sshd is run by systemd, and no TCP port is open.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.darwin-vz-guest;
in
{
  options.services.darwin-vz-guest.agent = lib.mkOption {
    type = lib.types.package;
    default = pkgs.callPackage ../agent.nix { static = false; };
    defaultText = lib.literalExpression "pkgs.callPackage ./nix/agent.nix { static = false; }";
    description = "The guest's agent.";
  };

  config = {
    services.openssh.enable = false;

    systemd.services.darwin-vz-agent = {
      description = "Agent of the host's darwin-vz-nix";
      wantedBy = [ "multi-user.target" ];
      wants = [ "nix-daemon.socket" ];
      after = [
        "nix-daemon.socket"
        "systemd-tmpfiles-setup.service"
      ];
      path = [ config.systemd.package ]; # systemctl, to power off
      serviceConfig = {
        ExecStart = "${cfg.agent}/bin/darwin-vz-agent service";
        Restart = "always";
        StandardOutput = "journal+console";
        LimitNOFILE = 65536;
        # Each login is a process of the agent's, and outlives its restart.
        KillMode = "process";
      };
      unitConfig.StartLimitIntervalSec = 0;
    };
  };
}
