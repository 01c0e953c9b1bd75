# The base guest: a guest bundle that a Mac packs without any Linux machine. Its programs are ordinary Linux packages
# from the public cache; only the agent is our own, and the Mac cross-compiles it.
#
# A guest's /nix/store is on its data disk (docs/guest-contract.md), so its programs cannot be there. They are put below
# /usr/store, a path of the same length, and every reference to one of them is rewritten in place: see pack.py.
{
  lib,
  stdenv,
  path,
  runCommand,
  writeText,
  callPackage,
  closureInfo,
  python3,
  erofs-utils,
  xz,
  certificateFiles ? [ ],
  certificates ? [ ],
  environment ? { },
}:
let
  arch = if stdenv.hostPlatform.isAarch64 then "aarch64" else "x86_64";
  linux = import path {
    system = "${arch}-linux";
    config = { };
    overlays = [ ];
  };
  kernel = linux.linuxPackages.kernel;
  agent = callPackage ./agent.nix { };

  packages = {
    nix = lib.getBin linux.nix;
    openssh = linux.openssh;
    e2fsprogs = lib.getBin linux.e2fsprogs;
    busybox = linux.busybox;
    busyboxShell = linux.busybox-sandbox-shell;
  };
  layout = import ./base-guest/layout.nix (
    lib.mapAttrs (_: toString) packages
    // {
      inherit lib environment;
      certificates =
        (
          if certificateFiles == [ ] then
            [ "${linux.cacert}/etc/ssl/certs/ca-bundle.crt" ]
          else
            certificateFiles
        )
        ++ map (writeText "certificate.pem") certificates;
    }
  );

  modules = import ./base-guest/modules.nix;
  manifest = import ./bundle.nix {
    inherit arch;
    kernel = kernel.target or linux.stdenv.hostPlatform.linux-kernel.target;
    image = "system.erofs";
    cmdline = import ./base-guest/cmdline.nix;
  };
in
runCommand "darwin-vz-base-guest"
  {
    nativeBuildInputs = [
      python3
      erofs-utils
      xz
    ];
    closure = closureInfo { rootPaths = lib.attrValues packages; };
    layout = builtins.toJSON layout;
    manifest = builtins.toJSON manifest;
    passAsFile = [
      "layout"
      "manifest"
    ];
    passthru = { inherit agent layout manifest; };
  }
  ''
    mkdir $out
    python3 ${./base-guest/pack.py} image --closure $closure/store-paths --layout $layoutPath --out system.tar
    mkfs.erofs --quiet --all-root -zlz4hc -T1 -U clear --tar=f $out/system.erofs system.tar
    python3 ${./base-guest/pack.py} initrd --agent ${agent}/bin/darwin-vz-agent --modules ${kernel.modules or kernel} \
      --want ${lib.escapeShellArg (toString modules)} --out $out/initrd
    cp ${kernel}/${manifest.kernel} $out/${manifest.kernel}
    cp $manifestPath $out/guest.json
    chmod 444 $out/*
  ''
