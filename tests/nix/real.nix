# Evaluates our module among nix-darwin's own options. Takes the folders of nixpkgs and of nix-darwin.
{ nixpkgs, nix-darwin }:
{ modules, system }:
let
  lib = import (nixpkgs + "/lib");
  # What nobody looks into; their names have no version that changes.
  stand-in = import ./mini/pkgs.nix { inherit system; };
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
        services.darwin-vz.package = lib.mkDefault stand-in.package;
      }
      (
        { config, ... }:
        {
          nix.package = lib.mkIf config.nix.enable stand-in.nix;
        }
      )
    ]
    ++ modules;
  };
in
{
  inherit lib;
  inherit (evaluated) config options;
  activation = evaluated.config.system.activationScripts.script.text;
}
