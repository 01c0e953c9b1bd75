# A NixOS guest as a whole system, with further modules. `nixpkgs` is a flake's input or a path.
{ nixpkgs, modules }:
import (nixpkgs + "/nixos/lib/eval-config.nix") {
  system = null;
  modules = [ ./guest.nix ] ++ modules;
}
