# Evaluates our module among the stand-in options.
{ modules, system }:
let
  lib = import ./lib.nix;
  evaluated = lib.evalModules {
    specialArgs.pkgs = import ./pkgs.nix { inherit system; };
    modules = [
      ./darwin-options.nix
      ../../../nix/darwin-module.nix
    ]
    ++ modules;
  };
in
{
  inherit lib;
  inherit (evaluated) options;
  # Modules are lazy, and what nobody looks at could be of any type: all that is set outside of our own options is looked at. As
  # in nix-darwin, only if no assertion fails.
  config =
    if builtins.all (each: each.assertion) evaluated.config.assertions then
      builtins.deepSeq {
        inherit (evaluated.config)
          environment
          launchd
          system
          users
          ;
      } evaluated.config
    else
      evaluated.config;
  # Whether a script is really run; the stand-in has no others than those which are.
  activation = null;
}
