# The guests that Nix makes, as plain data: what docs/guest-contract.md asks of a guest, as far as evaluation tells. The NixOS
# guest is evaluated among stand-in options, or with the folder of nixpkgs among NixOS's own.
{
  nixpkgs ? null,
}:
let
  guest = import ./guest.nix { inherit nixpkgs; };
  inherit (guest) lib;
  inherit
    (guest.evaluate [
      { services.darwin-vz-guest.environment.http_proxy = "http://proxy.example:3128"; }
    ])
    config
    ;

  lines =
    text: builtins.filter (part: builtins.isString part && part != "") (builtins.split "\n" text);
  only = names: lib.filterAttrs (name: _: lib.elem name names);
  service =
    unit:
    only [
      "after"
      "before"
      "conflicts"
      "environment"
      "path"
      "requiredBy"
      "requires"
      "serviceConfig"
      "unitConfig"
      "wantedBy"
      "wants"
    ] unit
    // {
      path = map toString (unit.path or [ ]);
      script = lines (unit.script or "");
      preStop = lines (unit.preStop or "");
    };
in
{
  base = {
    manifest = import ../../nix/bundle.nix {
      arch = "aarch64";
      kernel = "Image";
      image = "system.erofs";
      cmdline = import ../../nix/base-guest/cmdline.nix;
    };
    layout = import ../../nix/base-guest/layout.nix {
      lib = import ./mini/lib.nix;
      nix = "/N";
      openssh = "/O";
      e2fsprogs = "/E";
      busybox = "/B";
      busyboxShell = "/S";
      certificates = [ "/ca" ];
      environment.http_proxy = "http://proxy.example:3128";
    };
    modules = import ../../nix/base-guest/modules.nix;
  };

  nixos = {
    manifest = config.system.build.guestManifest;
    initrd = {
      inherit (config.boot.initrd) compressor;
      modules = config.boot.initrd.kernelModules;
      files = map (file: "${file.source or file}") config.boot.initrd.systemd.storePaths;
      programs = only [ "mke2fs" ] config.boot.initrd.systemd.extraBin;
      services = builtins.mapAttrs (_: service) (
        only [ "darwin-vz-disks" ] config.boot.initrd.systemd.services
      );
    };
    services = builtins.mapAttrs (_: service) (
      only [
        "darwin-vz-agent"
        "darwin-vz-leave-clean"
        "darwin-vz-rosetta"
        "nix-daemon"
      ] config.systemd.services
    );
    database = builtins.filter (line: builtins.match ".*nix-db.*" line != null) (
      lines config.system.build.guestBundle.buildCommand
    );
    root = only [ "device" "fsType" "options" ] config.fileSystems."/";
    nixSettings = only [
      "experimental-features"
      "fsync-metadata"
      "max-free"
      "max-jobs"
      "max-silent-time"
      "min-free"
      "sandbox"
      "trusted-users"
    ] config.nix.settings;
    nixConfiguration = lines config.nix.extraOptions;
    users =
      builtins.mapAttrs
        (
          _:
          only [
            "extraGroups"
            "group"
            "hashedPassword"
            "isNormalUser"
            "uid"
          ]
        )
        (
          only [
            "builder"
            "root"
            "sshd"
          ] config.users.users
        );
    networks = builtins.mapAttrs (
      _:
      only [
        "matchConfig"
        "networkConfig"
      ]
    ) (only [ "10-downloads" ] config.systemd.network.networks);
    tmpfiles = config.systemd.tmpfiles.rules;
    kernelParameters = config.boot.kernelParams;
    kernelModules = config.boot.kernelModules;
    powerKey = config.services.logind.settings.Login.HandlePowerKey;
    sshd = config.services.openssh.enable;
    sudo = config.security.sudo.enable;
    firewall = config.networking.firewall.enable;
    resolved = config.services.resolved.settings.Resolve;
    dbus = "${config.services.dbus.dbusPackage}";
    switches = config.system.switch.enable;
    suForwardsX = config.security.pam.services.su.forwardXAuth;
    shutdownRamfs = config.systemd.shutdownRamfs.enable;
  };
}
