# The options of NixOS that our guest sets, by name only: what they lead to is NixOS's, and checked with real copies.
{ lib, pkgs, ... }:
let
  anything = lib.mkOption { type = lib.types.anything; };
  each = lib.mkOption {
    type = lib.types.attrsOf lib.types.anything;
    default = { };
  };
  declare =
    option: names:
    builtins.foldl' (options: name: merge options (nest (lib.splitString "." name) option)) { } names;
  nest =
    path: option:
    if path == [ ] then option else { ${builtins.head path} = nest (builtins.tail path) option; };
  merge =
    a: b:
    a
    // builtins.mapAttrs (
      name: value: if a ? ${name} && !(value ? _type) then merge a.${name} value else value
    ) b;
in
{
  options =
    merge
      (declare each [
        "boot.initrd.systemd.extraBin"
        "boot.initrd.systemd.services"
        "boot.kernel.sysctl"
        "fileSystems"
        "nix.settings"
        "services.resolved.settings.Resolve"
        "system.build"
        "systemd.network.networks"
        "systemd.services"
        "users.groups"
        "users.users"
      ])
      (
        declare anything [
          "boot.bcache.enable"
          "boot.enableContainers"
          "boot.initrd.compressor"
          "boot.initrd.includeDefaultModules"
          "boot.initrd.kernelModules"
          "boot.initrd.systemd.enable"
          "boot.initrd.systemd.fido2.enable"
          "boot.initrd.systemd.storePaths"
          "boot.initrd.systemd.tpm2.enable"
          "boot.kernelModules"
          "boot.kernelPackages"
          "boot.kernelParams"
          "boot.kexec.enable"
          "boot.loader.grub.enable"
          "boot.tmp.useTmpfs"
          "console.enable"
          "documentation.enable"
          "documentation.man.enable"
          "documentation.nixos.enable"
          "environment.corePackages"
          "environment.defaultPackages"
          "environment.stub-ld.enable"
          "fonts.fontconfig.enable"
          "hardware.enableRedistributableFirmware"
          "i18n.defaultLocale"
          "i18n.supportedLocales"
          "networking.firewall.enable"
          "networking.hostName"
          "networking.useDHCP"
          "networking.useNetworkd"
          "nix.channel.enable"
          "nix.extraOptions"
          "nix.package"
          "programs.bash.completion.enable"
          "programs.less.enable"
          "programs.nano.enable"
          "security.enableWrappers"
          "security.pam.services.su.forwardXAuth"
          "security.pki.certificateFiles"
          "security.pki.certificates"
          "security.polkit.enable"
          "security.sudo.enable"
          "services.dbus.dbusPackage"
          "services.fstrim.enable"
          "services.logind.settings.Login.HandlePowerKey"
          "services.logrotate.enable"
          "services.lvm.enable"
          "services.nscd.enable"
          "services.openssh.enable"
          "services.resolved.enable"
          "services.timesyncd.enable"
          "services.udisks2.enable"
          "system.boot.loader.initrdFile"
          "system.disableInstallerTools"
          "system.etc.overlay.enable"
          "system.fsPackages"
          "system.nssModules"
          "system.stateVersion"
          "system.switch.enable"
          "system.tools.nixos-version.enable"
          "systemd.coredump.enable"
          "systemd.network.wait-online.enable"
          "systemd.oomd.enable"
          "systemd.package"
          "systemd.shutdownRamfs.enable"
          "systemd.tmpfiles.rules"
          "systemd.tpm2.enable"
          "users.allowNoPasswordLogin"
          "users.mutableUsers"
          "xdg.autostart.enable"
          "xdg.icons.enable"
          "xdg.mime.enable"
          "xdg.sounds.enable"
        ]
      );

  config = {
    nix.package = pkgs.nix;
    systemd.package = pkgs.systemd;
    system.build.toplevel = pkgs.nixos-system-unnamed;
    system.build.initialRamdisk = pkgs.initrd;
    system.boot.loader.initrdFile = "initrd";
    system.etc.overlay.enable = lib.mkDefault false;
  };
}
