# The derivation of a whole Mac with the NixOS guest, from real copies of nixpkgs and nix-darwin, and with nothing replaced.
{ nixpkgs, nix-darwin }:
(import (nix-darwin + "/eval-config.nix") {
  lib = import (nixpkgs + "/lib");
  enableNixpkgsReleaseCheck = false;
  modules = [
    ../../nix/darwin-module.nix
    {
      nixpkgs.source = toString nixpkgs; # not copied
      nixpkgs.hostPlatform = "aarch64-darwin";
      system.stateVersion = 6;
      documentation.enable = false;
      system.tools.enable = false;
      services.darwin-vz = {
        enable = true;
        rosetta = true;
        extraNixOSConfig.nix.settings.cores = 2;
      };
    }
  ];
}).config.system.build.toplevel
