# Rust's official binaries for a Mac, with the standard library for musl guests. nixpkgs' rustc for a Mac has no
# standard library for Linux, and building one takes a whole C cross toolchain; this one links with its own linker.
{
  lib,
  stdenvNoCC,
  fetchurl,
}:
let
  version = "1.95.0";
  # channel-rust-1.95.0.toml
  hashes = {
    cargo-aarch64-apple-darwin = "6c2ffed8e1ac9cf4dc9e80f282a869a6b237a153e7c55cca039d33de29d80aaf";
    rustc-aarch64-apple-darwin = "149e85a285b6eba58eb6c8bdf7deb1b93763890598e62cb635a712e3a8454f04";
    rust-std-aarch64-apple-darwin = "9b30089b0f767cb91b2190ffec55a9beeb2a21a1405d8da0f664d7e09d08e6d8";
    rust-std-aarch64-unknown-linux-musl = "f6710416ed9a7d5cf2a15efa761eb79a1deeb43f9961bbe05cc97bec4ef9064a";
  };
  fetch =
    name: sha256:
    let
      file = builtins.replaceStrings [ "-aarch64" ] [ "-${version}-aarch64" ] name;
    in
    fetchurl {
      url = "https://static.rust-lang.org/dist/2026-04-16/${file}.tar.xz";
      inherit sha256;
    };
in
stdenvNoCC.mkDerivation {
  pname = "rust-for-guests";
  inherit version;
  srcs = lib.mapAttrsToList fetch hashes;
  sourceRoot = ".";
  installPhase = ''
    runHook preInstall
    for installer in */install.sh; do
      bash "$installer" --prefix=$out --disable-ldconfig
    done
    runHook postInstall
  '';
  # Its programs are signed, and only run unmodified.
  dontFixup = true;
  meta.platforms = [ "aarch64-darwin" ];
}
