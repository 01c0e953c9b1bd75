# docs/module-options.md. The stand-in names the types, so the reference is the same on every machine.
let
  evaluated = import ./mini {
    modules = [ ];
    system = "aarch64-darwin";
  };
in
import ../../nix/options-doc.nix {
  inherit (evaluated) lib;
  options = evaluated.options.services.darwin-vz;
}
