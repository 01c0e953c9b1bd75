# The shutdown: leaves the data disk clean, so that the next boot keeps it (docs/guest-contract.md, "Stop").
#
# The overlay at /nix/store, from which PID 1 itself runs, is busy until the very end, and with it the data disk. So no
# unmount writes the mark that the disk is clean. A unit makes the disk read-only instead, which does, after all
# services have stopped and before anything is unmounted.
{ config, pkgs, ... }:
{
  systemd.services.darwin-vz-leave-clean = {
    description = "Data disk left clean";
    wantedBy = [ "sysinit.target" ];
    # The unit that starts first stops last.
    before = [
      "sysinit.target"
      "shutdown.target"
    ];
    conflicts = [ "shutdown.target" ];
    unitConfig = {
      DefaultDependencies = false;
      RequiresMountsFor = "/data /data/nix /nix/store /nix/var /tmp";
    };
    path = [
      pkgs.util-linux
      config.systemd.package
    ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      StandardOutput = "journal+console"; # the host shows the console
    };
    # `make test` runs this text with another shell, so it is plain sh.
    preStop = builtins.readFile ./leave-clean.sh;
  };
}
