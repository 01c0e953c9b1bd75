# Apple's clang as Rust's linker on a Mac (decision 17). Rust tells from the last part of its name how to speak to it.
{ writeShellScript }:
writeShellScript "apple-clang" ''
  # Those of Nix name another SDK, which has no Swift in it.
  unset SDKROOT DEVELOPER_DIR
  exec /usr/bin/xcrun --sdk macosx clang "$@"
''
