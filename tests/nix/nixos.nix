# NixOS guests as whole systems, among NixOS's own options: the guest as it is, and with what users may write in extraNixOSConfig.
{ nixpkgs, name }:
let
  lib = import (nixpkgs + "/lib");
  cases = {
    plain = { };
    intel.nixpkgs.hostPlatform = lib.mkForce "x86_64-linux";
    taste =
      { pkgs, ... }:
      {
        networking.hostName = "foo";
        networking.firewall.enable = true;
        security.sudo.enable = true;
        documentation.enable = true;
        documentation.man.enable = false;
        programs.nano.enable = true;
        environment.defaultPackages = [ pkgs.hello ];
        environment.systemPackages = [ pkgs.hello ];
        services.timesyncd.enable = true;
        time.timeZone = "Europe/Berlin";
        nix.settings.sandbox = "relaxed";
        nix.settings.max-jobs = 2;
        boot.kernel.sysctl."kernel.panic" = 10;
        users.users.builder.extraGroups = [ "kvm" ];
        systemd.services.own = {
          wantedBy = [ "multi-user.target" ];
          script = "true";
        };
      };
    docker.virtualisation.docker.enable = true;
    # `/etc` as an overlay, and users without perl, as in nixpkgs' profile.
    perlless =
      { pkgs, ... }:
      lib.mkIf (pkgs ? userborn) {
        system.etc.overlay.enable = true;
        services.userborn.enable = true;
      };
  };
  inherit ((import ./guest.nix { inherit nixpkgs; }).evaluate [ cases.${name} ]) config;
in
{
  toplevel = config.system.build.toplevel.drvPath;
  bundle = config.system.build.guestBundle.drvPath;
  failed = map (assertion: assertion.message) (
    builtins.filter (assertion: !assertion.assertion) config.assertions
  );
  inherit (config) warnings;
  services = builtins.attrNames config.systemd.services;
  units = lib.genAttrs [
    "darwin-vz-leave-clean.service"
    "darwin-vz-agent.service"
    "nix-daemon.service"
  ] (unit: config.systemd.units.${unit}.text);
  resolved = config.environment.etc."systemd/resolved.conf".text or "";
  storeReaders = config.boot.initrd.systemd.services.darwin-vz-disks.before;
  etcIsAnOverlay = config.system.etc.overlay.enable;
  setuid = builtins.attrNames (
    lib.optionalAttrs config.security.enableWrappers config.security.wrappers
  );
}
