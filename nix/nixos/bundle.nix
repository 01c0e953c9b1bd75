# The bundle of a NixOS guest. It is built on Linux, also if a Mac asks for it: that takes a builder, such as the base guest.
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
