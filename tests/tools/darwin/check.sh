#!/usr/bin/env bash
# `make check-darwin`: compiles and lints the whole workspace with clippy, tests included, as for a Mac. Needs no SDK:
# nothing is linked, and empty objects replace the few C dependencies. Therefore it has a separate target directory; such an
# object must never reach a linker.
set -euo pipefail
cd "$(dirname "$0")/../../.."
stubs=$PWD/tests/tools/darwin
export CC_aarch64_apple_darwin=$stubs/stub-cc AR_aarch64_apple_darwin=$stubs/stub-ar
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/darwin-check
# Clippy includes all of `cargo check`.
exec cargo clippy --workspace --all-targets --locked --target aarch64-apple-darwin "$@" -- -D warnings
