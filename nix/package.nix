# The program, for a Mac and for Linux hosts. On a Mac it is built with Apple's Command Line Tools, and signed ad hoc
# with the entitlement that Virtualization requires.
{
  lib,
  stdenv,
  callPackage,
  rustPlatform,
  installShellFiles,
  darwin ? null,
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
  cargoBuildFlags = [
    "--package=darwin-vz-nix"
  ]
  # Not by the variable, which nixpkgs sets to its own.
  ++ lib.optional isDarwin "--config=target.aarch64-apple-darwin.linker=\"${
    callPackage ./apple-clang.nix { }
  }\"";

  # Beside the program, what writes its manual pages.
  buildFeatures = [ "references" ];

  nativeBuildInputs = [ installShellFiles ] ++ lib.optional isDarwin darwin.sigtool;

  # The Swift half uses Apple's compiler, SDK and linker, which are not store paths (decision 17).
  __noChroot = isDarwin;
  preConfigure = lib.optionalString isDarwin ''
    swift=$(env -u SDKROOT -u DEVELOPER_DIR /usr/bin/xcrun --sdk macosx swiftc --version 2>&1) || true
    if ! [[ $swift =~ Swift\ version\ ([0-9]+) ]] || ((BASH_REMATCH[1] < 6)); then
      echo "darwin-vz-nix is built with Apple's Swift 6 or newer: install the Command Line Tools of Xcode 16 or newer (xcode-select --install), and see that Nix's setting sandbox is false or relaxed. Instead of it there is: $swift" >&2
      exit 1
    fi
  '';

  # The tests start virtual machines and need QEMU: `make test` runs them.
  doCheck = false;

  postInstall =
    lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
      installShellCompletion --cmd darwin-vz-nix \
        --bash <($out/bin/darwin-vz-nix completions bash) \
        --fish <($out/bin/darwin-vz-nix completions fish) \
        --zsh <($out/bin/darwin-vz-nix completions zsh)
      $out/bin/references man $TMPDIR/man
      installManPage $TMPDIR/man/*.1
    ''
    + ''
      rm $out/bin/references
    '';

  # After strip, which removes signatures, and after nixpkgs' own signing, which sets no entitlements (decision 0009).
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
