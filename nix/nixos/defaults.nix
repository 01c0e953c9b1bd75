# Defaults for a guest: mostly NixOS features that a builder does not need. All of them can be overridden.
#
# A definition in `extraNixOSConfig` wins over the first set. The second set overrides NixOS's own plain definitions, so
# it is stronger than a plain definition, and only `mkForce` overrides it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  instead = lib.mkOverride 99;

  defaults = {
    system.stateVersion = lib.trivial.release;
    system.disableInstallerTools = true;
    system.tools.nixos-version.enable = false;
    system.switch.enable = false; # a guest never switches systems: its successor boots
    networking.hostName = ""; # the agent sets the host's choice

    # The guest's own downloads; no unit waits for the network, and nothing listens on it.
    networking.firewall.enable = false;
    systemd.network.wait-online.enable = false;
    services.resolved.enable = true;
    services.resolved.settings.Resolve = {
      LLMNR = false;
      MulticastDNS = false;
    };
    services.timesyncd.enable = false; # the host sets the clock, also after sleep

    boot.kernel.sysctl."kernel.panic" = -1;
    boot.enableContainers = false;
    boot.bcache.enable = false;
    boot.kexec.enable = false;
    boot.initrd.includeDefaultModules = false;
    boot.initrd.systemd.tpm2.enable = false;
    boot.initrd.systemd.fido2.enable = false;

    systemd.services."getty@".enable = false;
    systemd.services."serial-getty@".enable = false;
    console.enable = false; # fonts and keymaps: there is a serial line alone
    systemd.tpm2.enable = false;
    systemd.coredump.enable = false;
    systemd.oomd.enable = false; # a process that runs out of memory here is a build, and the kernel kills it
    # At each stop, NixOS makes an image of systemd in memory, to unmount the file systems that systemd runs from.
    # Nothing needs that here: every writable file system is in memory or read-only by then (shutdown.nix).
    systemd.shutdownRamfs.enable = false;
    services.fstrim.enable = false; # the host asks the agent
    services.nscd.enable = false; # names are in files, or asked of resolved by DNS
    services.lvm.enable = false;
    services.udisks2.enable = false;
    services.logrotate.enable = false;
    security.sudo.enable = false;
    security.polkit.enable = false;
    # No setuid programs, unless one of these was requested.
    security.enableWrappers = config.security.sudo.enable || config.security.polkit.enable;
    programs.nano.enable = false;
    programs.bash.completion.enable = false;
    fonts.fontconfig.enable = false;
    nix.channel.enable = false;
    documentation.enable = false;
    documentation.nixos.enable = false;
    documentation.man.enable = false;
    environment.defaultPackages = [ ];
    environment.stub-ld.enable = false;
    i18n.supportedLocales = [ "C.UTF-8/UTF-8" ];
    i18n.defaultLocale = "C.UTF-8";
    xdg.autostart.enable = false;
    xdg.icons.enable = false;
    xdg.mime.enable = false;
    xdg.sounds.enable = false;
    hardware.enableRedistributableFirmware = false;
  };
in
{
  config = lib.mkMerge [
    (lib.mapAttrsRecursive (_: lib.mkDefault) defaults)
    {
      boot.kernelPackages = lib.mkDefault pkgs.linuxPackages;
      # The only program of D-Bus that needs X starts a bus for a desktop.
      services.dbus.dbusPackage = lib.mkDefault (pkgs.dbus.override { x11Support = false; });
    }
    {
      system.nssModules = lib.mkIf (!config.services.nscd.enable) (instead [ ]);
      system.fsPackages = instead [ ];
      programs.less.enable = instead false;
      security.pam.services.su.forwardXAuth = instead false; # needs xauth and X libraries
      # For interactive use; builds bring their own.
      environment.corePackages = instead [
        pkgs.bashInteractive
        pkgs.coreutils-full
        pkgs.findutils
        pkgs.gnugrep
        pkgs.gnused
        pkgs.procps
        pkgs.util-linux
      ];
    }
  ];
}
