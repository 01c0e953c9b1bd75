# Stand-in packages: derivations that only have a path. Writers of text keep it readable as `.text`.
{
  system ? "aarch64-darwin",
  config ? { },
}:
let
  drv =
    name: extra:
    (derivation {
      inherit name system;
      builder = "/bin/sh";
      args = [
        "-c"
        "exit 1"
      ];
    })
    // extra;
  parts = builtins.match "(.*)-(.*)" system;
in
builtins.listToAttrs (
  map
    (name: {
      inherit name;
      value = drv name { };
    })
    [
      "bashInteractive"
      "busybox"
      "coreutils-full"
      "e2fsprogs"
      "erofs-utils"
      "findutils"
      "gnugrep"
      "gnused"
      "initrd"
      "nixos-system-unnamed"
      "openssh"
      "procps"
      "sqlite"
      "systemd"
      "util-linux"
    ]
)
// {
  inherit system;
  writeText = name: text: drv name { inherit text; };
  writeShellScript = name: text: drv name { text = "#!/bin/sh\n${text}"; };
  busybox-sandbox-shell = drv "busybox" { };
  package = drv "darwin-vz-nix" { };
  nix = drv "nix" { };
  dbus.override = arguments: drv "dbus" { inherit arguments; };
  cacert = drv "nss-cacert-3" { };
  # What a guest is made of.
  path = ./pkgs.nix;
  linuxPackages.kernel = drv "linux" { target = "Image"; };
  closureInfo = _: drv "closure-info" { };
  runCommand =
    name: attributes: buildCommand:
    drv name { inherit attributes buildCommand; };
  # Our own packages, by the names that they give themselves.
  callPackage =
    file: _:
    drv
      {
        "agent.nix" = "darwin-vz-agent";
        "package.nix" = "darwin-vz-nix";
        "base-guest.nix" = "darwin-vz-base-guest";
        "bundle.nix" = "darwin-vz-nixos-guest";
      }
      .${baseNameOf file}
      { };
  stdenv.hostPlatform = {
    inherit system;
    parsed.cpu.name = builtins.elemAt parts 0;
    isAarch64 = builtins.elemAt parts 0 == "aarch64";
    isDarwin = builtins.elemAt parts 1 == "darwin";
    isLinux = builtins.elemAt parts 1 == "linux";
  };
}
