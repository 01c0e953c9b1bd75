# Evaluates our module among nix-darwin's own options. Takes the folders of nixpkgs and of nix-darwin.
{ nixpkgs, nix-darwin }:
{ modules, system }:
let
  lib = import (nixpkgs + "/lib");
  evaluated = import (nix-darwin + "/eval-config.nix") {
    inherit lib;
    enableNixpkgsReleaseCheck = false;
    modules = [
      ../../nix/darwin-module.nix
      {
        nixpkgs.source = toString nixpkgs; # not copied
        nixpkgs.hostPlatform = system;
        system.stateVersion = 6;
        documentation.enable = false;
        system.tools.enable = false; # nix-darwin's own commands
        services.darwin-vz.package = lib.mkDefault (import ./mini/pkgs.nix { inherit system; }).package;
      }
    ]
    ++ modules;
  };
in
{
  inherit lib;
  inherit (evaluated) config options;
  activation = evaluated.config.system.activationScripts.script.text;
}
