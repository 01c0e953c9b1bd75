{
  description = "A Linux builder for Nix on a Mac that starts when a build needs it and stops when idle";

  # A Mac that imports darwinModules.default uses neither input: `package` and the guests come from that Mac's own
  # nixpkgs. docs/nix.md says how the inputs are pinned.
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";
    nix-darwin = {
      url = "github:nix-darwin/nix-darwin";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      nix-darwin,
    }:
    let
      inherit (nixpkgs) lib;
      mac = "aarch64-darwin";
      linuxes = [
        "aarch64-linux"
        "x86_64-linux"
      ];
      forEach = systems: f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      everywhere = forEach ([ mac ] ++ linuxes);
      guest = modules: import ./nix/nixos/system.nix { inherit nixpkgs modules; };
    in
    {
      overlays.default = final: _: {
        darwin-vz-nix = final.callPackage ./nix/package.nix { };
        darwin-vz-agent = final.callPackage ./nix/agent.nix { };
        darwin-vz-base-guest = final.callPackage ./nix/base-guest.nix { };
      };

      packages = everywhere (
        pkgs:
        let
          darwin-vz-nix = pkgs.callPackage ./nix/package.nix { };
        in
        {
          inherit darwin-vz-nix;
          default = darwin-vz-nix;
          darwin-vz-agent = pkgs.callPackage ./nix/agent.nix { };
          base-guest = pkgs.callPackage ./nix/base-guest.nix { };
        }
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
          guest-bundle = pkgs.callPackage ./nix/nixos/bundle.nix { };
        }
      );

      # `nix run`: the daemon with the base guest, in a terminal, to try it before changing the system.
      apps = everywhere (pkgs: {
        default = {
          type = "app";
          program = lib.getExe (
            pkgs.writeShellScriptBin "darwin-vz-nix" ''
              export DARWIN_VZ_NIX_BUNDLE="''${DARWIN_VZ_NIX_BUNDLE:-${
                self.packages.${pkgs.stdenv.hostPlatform.system}.base-guest
              }}"
              if [ $# = 0 ]; then set -- daemon; fi
              exec ${lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.default} "$@"
            ''
          );
          meta.description = "Run the Linux builder in this terminal";
        };
      });

      darwinModules.default = ./nix/darwin-module.nix;
      nixosModules.guest = ./nix/nixos/guest.nix;
      nixosConfigurations = lib.genAttrs linuxes (system: guest [ { nixpkgs.hostPlatform = system; } ]);

      devShells = everywhere (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.clippy
            pkgs.rustc
            pkgs.rustfmt
            pkgs.deadnix
            pkgs.jq
            pkgs.nixfmt
            pkgs.shellcheck
          ];
          # Decision 17.
          ${if pkgs.stdenv.hostPlatform.isDarwin then "CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER" else null} =
            pkgs.callPackage ./nix/apple-clang.nix
              { };
        };
      });

      formatter = everywhere (pkgs: pkgs.nixfmt-tree or pkgs.nixfmt);

      # Whole systems, evaluated to their derivations, which `nix flake check` evaluates on any machine.
      checks = everywhere (
        pkgs:
        import ./nix/checks.nix {
          inherit
            pkgs
            nixpkgs
            nix-darwin
            self
            ;
        }
      );

      # The templates of nix/templates, which are also available without this flake's inputs.
      inherit ((import ./nix/templates/flake.nix).outputs { }) templates;
    };
}
