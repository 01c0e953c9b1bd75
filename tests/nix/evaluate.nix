# One configuration of scenarios.nix or refused.nix, by name, among the stand-in options or, if their folders are given, among
# the real ones.
{
  group,
  name,
  nixpkgs ? null,
  nix-darwin ? null,
}:
let
  all = {
    scenarios = import ./scenarios.nix;
  }
  // import ./refused.nix;
  case = all.${group}.${name};
  evaluate =
    if nixpkgs == null then import ./mini else import ./real.nix { inherit nixpkgs nix-darwin; };
in
import ./project.nix (evaluate {
  inherit (case) modules;
  system = case.system or "aarch64-darwin";
})
