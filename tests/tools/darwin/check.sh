#!/usr/bin/env bash
# `make check-darwin`: the compiler's and clippy's word on the whole workspace, tests included, as a Mac would build it.
# Needs no SDK: nothing is linked, and the little C among the dependencies is replaced by empty objects. For that reason
# the target directory is one of its own; such an object must never reach a linker.
set -euo pipefail
cd "$(dirname "$0")/../../.."
stubs=$PWD/tests/tools/darwin
export CC_aarch64_apple_darwin=$stubs/stub-cc AR_aarch64_apple_darwin=$stubs/stub-ar
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/darwin-check
# Clippy does all that `cargo check` does, and then more.
exec cargo clippy --workspace --all-targets --locked --target aarch64-apple-darwin "$@" -- -D warnings
