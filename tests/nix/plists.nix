# The property lists of a configuration's launchd jobs, as nix-darwin writes them.
{
  name,
  nixpkgs,
  nix-darwin,
}:
let
  inherit
    (import ./real.nix { inherit nixpkgs nix-darwin; } {
      inherit ((import ./scenarios.nix).${name}) modules;
      system = "aarch64-darwin";
    })
    config
    lib
    ;
in
lib.mapAttrs' (file: job: lib.nameValuePair (lib.removeSuffix ".plist" file) job.text) (
  lib.filterAttrs (file: _: lib.hasInfix "darwin-vz" file) config.environment.launchDaemons
)
