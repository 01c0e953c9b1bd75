# Stand-in packages: derivations that only have a path. Writers of text keep it readable as `.text`.
{
  system ? "aarch64-darwin",
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
{
  inherit system;
  writeText = name: text: drv name { inherit text; };
  writeShellScript = name: text: drv name { text = "#!/bin/sh\n${text}"; };
  package = drv "darwin-vz-nix" { };
  # Our own packages, by the names that they give themselves.
  callPackage =
    file: _:
    drv
      {
        "package.nix" = "darwin-vz-nix";
        "base-guest.nix" = "darwin-vz-base-guest";
        "bundle.nix" = "darwin-vz-nixos-guest";
      }
      .${baseNameOf file}
      { };
  stdenv.hostPlatform = {
    inherit system;
    isAarch64 = builtins.elemAt parts 0 == "aarch64";
    isDarwin = builtins.elemAt parts 1 == "darwin";
    isLinux = builtins.elemAt parts 1 == "linux";
  };
}
