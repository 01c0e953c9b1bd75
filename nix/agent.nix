# The guest's agent. A Mac builds it with Rust's standard library as the only part for Linux.
#
# It is a static program, so that an image needs nothing else for it. nixpkgs has no static Rust in its cache and would
# build a compiler first, so a NixOS guest, which has a C library anyway, uses `static = false`.
{
  lib,
  stdenv,
  callPackage,
  rustPlatform,
  pkgsStatic,
  static ? true,
}:
let
  manifest = lib.importTOML ../Cargo.toml;
  common = {
    pname = "darwin-vz-agent";
    inherit (manifest.workspace.package) version;
    src = import ./source.nix { inherit lib; };
    meta = {
      description = "The guest's agent of darwin-vz-nix";
      license = lib.licenses.mit;
      mainProgram = "darwin-vz-agent";
    };
  };
  flags = [
    "--package=darwin-vz-agent"
    "--profile=agent"
  ];

  target = "aarch64-unknown-linux-musl";
  onMac = stdenv.mkDerivation (
    common
    // {
      nativeBuildInputs = [ (callPackage ./rust-cross.nix { }) ];
      vendored = rustPlatform.importCargoLock { lockFile = ../Cargo.lock; };
      configurePhase = ''
        runHook preConfigure
        export CARGO_HOME=$TMPDIR/cargo
        mkdir -p $CARGO_HOME
        printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "%s"\n' $vendored \
          >$CARGO_HOME/config.toml
        runHook postConfigure
      '';
      # Linker and flags of the target are in .cargo/config.toml.
      buildPhase = ''
        runHook preBuild
        cargo build --offline --locked --target ${target} ${toString flags}
        runHook postBuild
      '';
      installPhase = ''
        runHook preInstall
        install -Dm555 target/${target}/agent/darwin-vz-agent $out/bin/darwin-vz-agent
        runHook postInstall
      '';
      dontFixup = true; # a Mac's strip does not support the format
    }
  );

  onLinux = (if static then pkgsStatic.rustPlatform else rustPlatform).buildRustPackage (
    common
    // {
      cargoLock.lockFile = ../Cargo.lock;
      buildType = "agent";
      cargoBuildFlags = [ "--package=darwin-vz-agent" ];
      doCheck = false;
    }
  );
in
if stdenv.hostPlatform.isDarwin then onMac else onLinux
