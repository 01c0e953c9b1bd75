# The NixOS guest with further modules: among stand-in options, or with the folder of nixpkgs among NixOS's own.
{
  nixpkgs ? null,
  system ? "aarch64-linux",
}:
rec {
  real = nixpkgs != null;
  lib = if real then import (nixpkgs + "/lib") else import ./mini/lib.nix;
  evaluate =
    modules:
    if real then
      import ../../nix/nixos/system.nix {
        inherit nixpkgs;
        modules = [ { nixpkgs.hostPlatform = system; } ] ++ modules;
      }
    else
      lib.evalModules {
        specialArgs.pkgs = import ./mini/pkgs.nix { inherit system; };
        modules = [
          ./mini/nixos-options.nix
          ../../nix/nixos/guest.nix
        ]
        ++ modules;
      };
}
