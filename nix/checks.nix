# Whole systems from nixpkgs' and nix-darwin's own modules. Each is evaluated to the derivation of its system, and the
# check builds only that derivation's name, so it needs no Mac and no Linux builder.
{
  pkgs,
  nixpkgs,
  nix-darwin,
  self,
}:
let
  inherit (nixpkgs) lib;
  evaluated =
    name: drv: pkgs.writeText "evaluated-${name}" (builtins.unsafeDiscardStringContext drv.drvPath);
  # nix-darwin's manual and tools, one of which evaluates a whole system with its manual: they are not ours, and take
  # most of the time.
  withoutManual = {
    documentation.enable = false;
    system.tools.enable = false;
  };
  mac =
    modules:
    (nix-darwin.lib.darwinSystem {
      modules = [
        self.darwinModules.default
        {
          nixpkgs.hostPlatform = "aarch64-darwin";
          system.stateVersion = 6;
        }
        withoutManual
      ]
      ++ modules;
    }).system;
in
{
  darwin-minimal = evaluated "darwin-minimal" (mac [ { services.darwin-vz.enable = true; } ]);
  darwin-disabled = evaluated "darwin-disabled" (mac [ ]);
  darwin-unmanaged-nix = evaluated "darwin-unmanaged-nix" (mac [
    {
      nix.enable = false;
      services.darwin-vz.enable = true;
    }
  ]);
  # FR-006 of the specification, verbatim.
  darwin-specification = evaluated "darwin-specification" (mac [
    {
      services.darwin-vz = {
        enable = true;
        cores = 8;
        memory = 8192;
        diskSize = "100G";
        rosetta = true;
        idleTimeout = 180;
        extraNixOSConfig = {
          nix.settings.cores = 2;
        };
      };
    }
  ]);
  template = evaluated "template" (
    (
      ((import ./templates/mac/flake.nix).outputs {
        inherit nix-darwin;
        darwin-vz-nix = self;
      }).darwinConfigurations.mac.extendModules
      { modules = [ withoutManual ]; }
    ).system
  );
}
// lib.mapAttrs' (
  system: nixos:
  lib.nameValuePair "nixos-guest-${system}" (
    evaluated "nixos-guest" nixos.config.system.build.toplevel
  )
) self.nixosConfigurations
