# Disks and what is mounted where. The first disk is the image of this system, the last one the data disk.
#
#   /                tmpfs
#   /nix/.image      the image, erofs, read-only: the store paths of this system
#   /data            the data disk: a cache (decision 0001). The agent checks it, formats it if needed, and mounts it
#   /data/nix        its directory `nixos`; the agent deletes what other guests keep at this place
#   /mnt/nix-store   the host's store, if it is shared, read-only; mounted by the agent
#   /nix/store       the data disk over the image, and that over the host's store
#   /nix/var, /tmp   directories of the data disk
#
# One service of the initrd does all of this, in order, as the mounts depend on the agent's findings. Nix's database on
# the data disk contains the image's paths: it begins as a copy of the image's own. With another image it would be
# wrong, so the directory is then made again. shutdown.nix leaves the disk clean.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (config.services.darwin-vz-guest) agent;
  # Units of the initrd that read the system's store.
  readers = [
    "initrd-fs.target"
    "initrd-find-nixos-closure.service"
  ]
  ++ lib.optional config.system.etc.overlay.enable "initrd-find-etc.service";
in
{
  fileSystems."/" = {
    device = "tmpfs";
    fsType = "tmpfs";
    options = [
      "mode=0755"
      "size=50%"
    ];
  };

  boot.initrd.kernelModules = [
    "virtio_pci"
    "virtio_console" # hvc0, where a failed boot prints the reason
    "virtio_blk"
    "virtio_net"
    "virtio_rng"
    "vmw_vsock_virtio_transport"
    "virtiofs"
    "erofs"
    "ext4"
    "overlay"
    # The power button must exist before the agent sends Ready, so its drivers do not wait for udev.
    "button"
    "evdev"
  ]
  ++ lib.optional pkgs.stdenv.hostPlatform.isAarch64 "gpio_keys";

  boot.initrd.systemd = {
    storePaths = [ "${agent}/bin/darwin-vz-agent" ];
    extraBin.mke2fs = "${lib.getBin pkgs.e2fsprogs}/bin/mke2fs"; # /usr/sbin is a link into the store, so not by `contents`
    services.darwin-vz-disks = {
      description = "Boot payload, image and data disk";
      # NixOS looks for its system in /sysroot/nix/store as soon as /sysroot itself is mounted.
      requiredBy = readers;
      before = readers;
      after = [
        "sysroot.mount"
        "systemd-modules-load.service"
      ];
      requires = [ "sysroot.mount" ];
      unitConfig.DefaultDependencies = false;
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        StandardOutput = "tty"; # the host shows the console when a boot fails
        TTYPath = "/dev/console";
      };
      # `make check-guests` runs this text with another shell, so it is plain sh.
      script = ''
        root=/sysroot
        # Moves the payload to $root/darwin-vz, and mounts the data disk at $root/data, with its directory `nixos` at
        # $root/data/nix. On failure it prints the reason and powers off.
        ${agent}/bin/darwin-vz-agent initrd $root nixos

        mkdir -p $root/nix/.image $root/nix/store $root/nix/var $root/tmp
        mount -t erofs -o ro /dev/vda $root/nix/.image

        for word in $(cat /proc/cmdline); do
          case $word in init=*) system=''${word#init=} ;; esac
        done
        data=$root/data/nix
        if [ "$(cat $data/system 2>/dev/null)" != "$system" ]; then
          rm -rf $data/*
          mkdir -p $data/store $data/var/nix $data/work
          cp -R $root/nix/.image/nix-db $data/var/nix/db
          chown 0:30000 $data/store
          chmod 1775 $data/store
          echo "$system" >$data/system
        fi
        mkdir -p $root/data/tmp
        chmod 1777 $root/data/tmp

        # With the same options as the agent uses in other guests.
        lower=$root/nix/.image
        while read -r _ mounted kind _; do # the initrd has no grep
          if [ "$kind $mounted" = "virtiofs $root/mnt/nix-store" ]; then lower=$lower:$mounted; fi
        done </proc/mounts
        mount -t overlay overlay -o lowerdir=$lower,upperdir=$data/store,workdir=$data/work,redirect_dir=on $root/nix/store
        mount --bind $data/var $root/nix/var
        mount --bind $root/data/tmp $root/tmp
      '';
    };
  };
}
