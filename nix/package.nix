# The program, for a Mac and for Linux hosts. On a Mac it is signed, ad hoc, with the entitlement that Virtualization asks for.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
  apple-sdk_15 ? null,
  darwin ? null,
  swift ? null,
}:
let
  isDarwin = stdenv.hostPlatform.isDarwin;
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = "darwin-vz-nix";
  inherit (manifest.workspace.package) version;

  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../Cargo.lock;
  # The agent is a program for guests: see agent.nix.
  cargoBuildFlags = [ "--package=darwin-vz-nix" ];

  nativeBuildInputs = [
    installShellFiles
  ]
  ++ lib.optionals isDarwin [
    darwin.sigtool
    swift
  ];
  buildInputs = lib.optional isDarwin apple-sdk_15;

  # They start virtual machines and need QEMU: `make test` runs them.
  doCheck = false;

  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd darwin-vz-nix \
      --bash <($out/bin/darwin-vz-nix completions bash) \
      --fish <($out/bin/darwin-vz-nix completions fish) \
      --zsh <($out/bin/darwin-vz-nix completions zsh)
    $out/bin/darwin-vz-nix man $TMPDIR/man
    installManPage $TMPDIR/man/*.1
  '';

  # After strip, which removes signatures, and after nixpkgs' own signing, which knows no entitlements (decision 0009).
  postFixup = lib.optionalString isDarwin ''
    codesign --force --sign - --entitlements ${../entitlements.plist} $out/bin/darwin-vz-nix
  '';
  doInstallCheck = isDarwin;
  installCheckPhase = ''
    grep -aq com.apple.security.virtualization $out/bin/darwin-vz-nix || {
      echo "the signature lacks the entitlement"
      exit 1
    }
    $out/bin/darwin-vz-nix --version
  '';

  meta = {
    inherit (manifest.package) description;
    homepage = manifest.workspace.package.repository;
    license = lib.licenses.mit;
    mainProgram = "darwin-vz-nix";
    platforms = [
      "aarch64-darwin"
      "aarch64-linux"
      "x86_64-linux"
    ];
  };
}
