{
  description = "A Mac with a Linux builder";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";
    nix-darwin.url = "github:nix-darwin/nix-darwin";
    nix-darwin.inputs.nixpkgs.follows = "nixpkgs";
    darwin-vz-nix.url = "github:darwin-vz-nix/darwin-vz-nix";
    darwin-vz-nix.inputs.nixpkgs.follows = "nixpkgs";
    darwin-vz-nix.inputs.nix-darwin.follows = "nix-darwin";
  };

  outputs =
    { nix-darwin, darwin-vz-nix, ... }:
    {
      # sudo nix run nix-darwin -- switch --flake .#mac
      darwinConfigurations.mac = nix-darwin.lib.darwinSystem {
        modules = [
          darwin-vz-nix.darwinModules.default
          {
            nixpkgs.hostPlatform = "aarch64-darwin";
            system.stateVersion = 6;
            nix.settings.experimental-features = "nix-command flakes";

            services.darwin-vz = {
              enable = true;
              cores = 4;
              memory = 8192; # MiB
            };
          }
        ];
      };
    };
}
