# Apple's clang as Rust's linker on a Mac (decision 17). Rust chooses the command-line syntax by the last part of its
# name.
{ writeShellScript }:
writeShellScript "apple-clang" ''
  # Nix's variables name another SDK, which has no Swift.
  unset SDKROOT DEVELOPER_DIR
  exec /usr/bin/xcrun --sdk macosx clang "$@"
''
