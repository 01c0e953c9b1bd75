# The Rust workspace and nothing else, so that a change of documentation or of Nix files builds nothing anew.
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
