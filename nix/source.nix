# The Rust workspace alone, so that a change of documentation or Nix files rebuilds nothing.
{ lib }:
let
  root = ../.;
  present = builtins.filter builtins.pathExists;
in
lib.fileset.toSource {
  inherit root;
  fileset = lib.fileset.unions (present [
    ../.cargo
    ../Cargo.toml
    ../Cargo.lock
    ../build.rs
    ../entitlements.plist
    ../rust
    ../swift
  ]);
}
