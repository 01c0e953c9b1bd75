# What is a matter of taste in a guest: mostly what NixOS has by default and a builder does not need. All of it is a default.
#
# A definition of `extraNixOSConfig` wins over the first set. NixOS itself sets what is in the second, so those are stronger than a
# plain definition, and give way to `mkForce`.
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
    system.switch.enable = false; # a guest never switches: its successor boots
    networking.hostName = ""; # the agent sets the one that the host gives

    # The guest's own downloads; no unit waits for the network, and nothing listens on it.
    networking.firewall.enable = false;
    systemd.network.wait-online.enable = false;
    services.resolved.enable = true;
    services.resolved.settings.Resolve = {
      LLMNR = false;
      MulticastDNS = false;
    };
    services.timesyncd.enable = false; # the host sets the clock, also after it slept

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
    systemd.oomd.enable = false; # what runs out of memory here is a build, and the kernel tells it so
    # An image of systemd in memory, made at each stop, for unmounting what systemd runs from. Nothing needs that here: what is
    # written to is in memory or read-only by then (shutdown.nix).
    systemd.shutdownRamfs.enable = false;
    services.fstrim.enable = false; # the host asks the agent
    services.nscd.enable = false; # names are in files, or asked of resolved by DNS
    services.lvm.enable = false;
    services.udisks2.enable = false;
    services.logrotate.enable = false;
    security.sudo.enable = false;
    security.polkit.enable = false;
    # No program raises its privileges, unless one of these was asked for.
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
      # The one program of D-Bus that needs X starts a bus for a desktop.
      services.dbus.dbusPackage = lib.mkDefault (pkgs.dbus.override { x11Support = false; });
    }
    {
      system.nssModules = lib.mkIf (!config.services.nscd.enable) (instead [ ]);
      system.fsPackages = instead [ ];
      programs.less.enable = instead false;
      security.pam.services.su.forwardXAuth = instead false; # brings xauth and libraries of X
      # For whom looks into the guest; builds bring their own.
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
