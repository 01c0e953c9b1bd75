# The bundle of a NixOS guest. It is built on Linux, even if a Mac requests it: that needs a builder, such as the base
# guest.
{
  stdenv,
  path,
  modules ? [ ],
}:
(import ./system.nix {
  nixpkgs = path;
  modules = [
    {
      nixpkgs.hostPlatform =
        if stdenv.hostPlatform.isDarwin then "aarch64-linux" else stdenv.hostPlatform.system;
    }
  ]
  ++ modules;
}).config.system.build.guestBundle
