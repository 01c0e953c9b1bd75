# A NixOS guest after docs/guest-contract.md.
#
#   initrd    payload ▸ data disk ▸ overlay of image and data disk as /nix/store    disks.nix
#   system    agent: sshd on vsock 22, nix-daemon on vsock 24, the host's requests  agent.nix
#             nix-daemon, builder without sudo                                      builder.nix
#             Rosetta, if it works                                                  rosetta.nix
#   bundle    kernel, initrd, image, guest.json                                     image.nix
#
# The rule: nothing that a builder does not need.
{ lib, pkgs, ... }:
{
  imports = [
    ./agent.nix
    ./builder.nix
    ./disks.nix
    ./image.nix
    ./rosetta.nix
  ];

  options.services.darwin-vz-guest = {
    certificateFiles = lib.mkOption {
      type = lib.types.listOf lib.types.path;
      default = [ ];
      description = "Certificate authorities to trust besides the usual ones.";
    };
    certificates = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      description = "More of them, as text.";
    };
    environment = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      description = "Variables of nix-daemon, such as proxies.";
    };
  };

  config = {
    system.stateVersion = lib.mkDefault lib.trivial.release;
    system.disableInstallerTools = true;
    system.tools.nixos-version.enable = false;
    networking.hostName = ""; # the agent sets the one that the host gives

    # The guest's own downloads; nobody waits for the network, and nothing listens on it.
    networking.useDHCP = false;
    networking.useNetworkd = true;
    networking.firewall.enable = false;
    systemd.network.wait-online.enable = false;
    systemd.network.networks."10-downloads" = {
      matchConfig.Type = "ether";
      networkConfig.DHCP = "yes";
    };
    services.resolved.enable = true;
    services.timesyncd.enable = false; # the host sets the clock, also after it slept

    boot.loader.grub.enable = false;
    boot.initrd.systemd.enable = true;
    boot.tmp.useTmpfs = false;
    boot.kernel.sysctl."kernel.panic" = -1;
    boot.kernelParams = [
      "panic=-1"
      "quiet"
      "mitigations=off" # it runs one user's builds and trusts them as much as that user does
      "audit=0"
      "nowatchdog"
    ];
    boot.enableContainers = false;
    boot.bcache.enable = false;

    services.logind.settings.Login.HandlePowerKey = "poweroff";
    systemd.services."getty@".enable = false;
    systemd.services."serial-getty@".enable = false;
    console.enable = false; # fonts and keymaps: there is a serial line alone
    boot.kexec.enable = false;
    boot.initrd.systemd.tpm2.enable = false;
    boot.initrd.systemd.fido2.enable = false;
    systemd.tpm2.enable = false;
    systemd.coredump.enable = false;
    systemd.oomd.enable = false; # what runs out of memory here is a build, and is told so by the kernel
    services.fstrim.enable = false; # the host asks the agent
    # Names are in files, or asked of resolved by DNS.
    services.nscd.enable = false;
    system.nssModules = lib.mkForce [ ];
    services.lvm.enable = false;
    services.udisks2.enable = false;
    security.sudo.enable = false;
    security.polkit.enable = false;
    security.enableWrappers = false; # nobody becomes root here
    programs.nano.enable = false;
    programs.less.enable = lib.mkForce false;
    fonts.fontconfig.enable = false;
    nix.channel.enable = false;
    documentation.enable = false;
    documentation.nixos.enable = false;
    documentation.man.enable = false;
    environment.defaultPackages = [ ];
    # For whoever looks into the guest; builds bring their own.
    environment.corePackages = lib.mkForce [
      pkgs.bashInteractive
      pkgs.coreutils-full
      pkgs.findutils
      pkgs.gnugrep
      pkgs.gnused
      pkgs.procps
      pkgs.util-linux
    ];
    programs.bash.completion.enable = false;
    system.fsPackages = lib.mkForce [ ];
    environment.stub-ld.enable = false;
    i18n.supportedLocales = [ "C.UTF-8/UTF-8" ];
    i18n.defaultLocale = "C.UTF-8";
    xdg.autostart.enable = false;
    xdg.icons.enable = false;
    xdg.mime.enable = false;
    xdg.sounds.enable = false;
    hardware.enableRedistributableFirmware = false;
    services.logrotate.enable = false;
    boot.kernelPackages = lib.mkDefault pkgs.linuxPackages;
  };
}
