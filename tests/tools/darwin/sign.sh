#!/usr/bin/env bash
# `make sign`: the release program, stripped and signed ad hoc with the entitlement to run virtual machines. Without it macOS
# starts the program, but the Virtualization framework refuses every machine. Prints the program's path.
#
# Signing comes last: any later change of the program, including stripping, breaks the signature.
set -euo pipefail
cd "$(dirname "$0")/../../.."
# shellcheck source=tests/tools/lib.sh
. tests/tools/lib.sh
name=darwin-vz-nix

if [ "$(uname)" = Darwin ]; then
  cargo build --release --locked --bin "$name" >&2
  program=${CARGO_TARGET_DIR:-$PWD/target}/release/$name
  /usr/bin/strip -x "$program"
  /usr/bin/codesign --force --sign - --identifier "$name" --entitlements entitlements.plist "$program"
  /usr/bin/codesign --verify --strict "$program"
else
  command -v rcodesign >/dev/null || die "a Mac's release program cannot be built here: Apple's SDK, which the Swift half \
needs, is for Macs only. What can be tried is to sign the Rust half that \`make link-darwin\` makes. For that, install \
rcodesign (about 12 minutes): cargo install --locked --no-default-features apple-codesign@0.29.0"
  unsigned=$(tests/tools/darwin/link.sh)
  program=$(dirname "$unsigned")/signed/$name
  mkdir -p "$(dirname "$program")"
  rcodesign sign --binary-identifier "$name" --entitlements-xml-path entitlements.plist "$unsigned" "$program" >&2
  tests/tools/darwin/check_macho.py "$program" entitlements.plist >&2
fi
echo "$program"
