# The bundle of this system: docs/guest-contract.md, "Bundle".
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (config.system.build) toplevel;
  inherit (config.boot.kernelPackages) kernel;
  target = kernel.target or pkgs.stdenv.hostPlatform.linux-kernel.target;
  manifest = import ../bundle.nix {
    arch = pkgs.stdenv.hostPlatform.parsed.cpu.name;
    kernel = target;
    image = "system.erofs";
    toplevel = "${toplevel}";
    cmdline = "init=${toplevel}/init ${toString config.boot.kernelParams}";
  };
in
{
  # Not compressed, so that the host can append the boot payload.
  boot.initrd.compressor = "cat";

  system.build.guestManifest = manifest;
  system.build.guestBundle =
    pkgs.runCommand "darwin-vz-nixos-guest"
      {
        nativeBuildInputs = [
          pkgs.erofs-utils
          config.nix.package # the guest's version, which must match its database
          (lib.getBin pkgs.sqlite)
        ];
        closure = pkgs.closureInfo { rootPaths = [ toplevel ]; };
        manifest = builtins.toJSON manifest;
        passAsFile = [ "manifest" ];
      }
      ''
        mkdir $out
        sh ${./database.sh} $closure/registration nix-db
        # A constant time, so that the image is reproducible.
        sqlite3 nix-db/db.sqlite 'UPDATE ValidPaths SET registrationTime = 1'
        sed 's|^/nix/store/||' $closure/store-paths >names
        tar --create --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --format=pax \
          --directory=/nix/store --files-from=$PWD/names --directory=$PWD nix-db >system.tar
        mkfs.erofs --quiet -zlz4hc -T1 -U clear --tar=f $out/system.erofs system.tar
        cp ${kernel}/${target} $out/${target}
        cp ${config.system.build.initialRamdisk}/${config.system.boot.loader.initrdFile} $out/initrd
        cp $manifestPath $out/guest.json
        chmod 444 $out/*
      '';
}
