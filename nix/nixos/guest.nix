# A NixOS guest after docs/guest-contract.md.
#
#   initrd    payload ▸ data disk ▸ overlay of image and data disk as /nix/store    disks.nix
#   system    agent: sshd on vsock 22, nix-daemon on vsock 24, the host's requests  agent.nix
#             nix-daemon, builder without sudo                                      builder.nix
#             Rosetta, if it works                                                  rosetta.nix
#             the data disk, left clean                                             shutdown.nix
#             what NixOS has and a builder does not need                            defaults.nix
#   bundle    kernel, initrd, image, guest.json                                     image.nix
#
# The rules: nothing that a builder does not need. What the contract requires is set plainly, here and in the files
# above; everything else is a default, which `extraNixOSConfig` may change like any default of NixOS's (defaults.nix).
{ lib, ... }:
{
  imports = [
    ./agent.nix
    ./builder.nix
    ./defaults.nix
    ./disks.nix
    ./image.nix
    ./rosetta.nix
    ./shutdown.nix
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
      description = "Further certificate authorities, as text.";
    };
    environment = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      description = "Environment variables of nix-daemon, such as proxies.";
    };
  };

  # Each implements a rule of the contract.
  config = {
    networking.useDHCP = false;
    networking.useNetworkd = true;
    systemd.network.networks."10-downloads" = {
      matchConfig.Type = "ether";
      networkConfig.DHCP = "yes";
    };
    boot.loader.grub.enable = false; # the host starts the kernel
    boot.initrd.systemd.enable = true;
    boot.tmp.useTmpfs = false; # builds need the disk
    boot.kernelParams = [
      "panic=-1"
      "quiet"
      "mitigations=off" # it runs one user's builds and trusts them as much as that user does
      "audit=0"
      "nowatchdog"
    ];
    services.logind.settings.Login.HandlePowerKey = "poweroff";
  };
}
