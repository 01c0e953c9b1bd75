# Whether the flake of README.md, given as a file, enables the service: among the stand-in options or, if their folders are given,
# in a whole system of nix-darwin's.
{
  flake,
  nixpkgs ? null,
  nix-darwin ? null,
}:
let
  real = nixpkgs != null;
  darwinSystem =
    { modules }:
    if real then
      import (nix-darwin + "/eval-config.nix") {
        lib = import (nixpkgs + "/lib");
        enableNixpkgsReleaseCheck = false;
        modules = modules ++ [
          {
            nixpkgs.source = toString nixpkgs; # not copied
            documentation.enable = false;
            system.tools.enable = false;
          }
        ];
      }
    else
      import ./mini {
        inherit modules;
        system = "aarch64-darwin";
      };
  mac =
    ((import flake).outputs {
      darwin-vz-nix = {
        inputs.nix-darwin.lib = { inherit darwinSystem; };
        # The stand-in has it already.
        darwinModules.default = if real then ../../nix/darwin-module.nix else { };
      };
    }).darwinConfigurations.mac.config;
in
mac.services.darwin-vz.enable && (real -> mac.system.build.toplevel.drvPath != "")
