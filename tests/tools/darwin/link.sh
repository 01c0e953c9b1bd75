#!/usr/bin/env bash
# `make link-darwin`: links the Rust half of the program to an arm64 Mach-O and checks it. Not part of every CI run: the
# first time takes minutes. The Swift half remains as undefined names to be resolved at load time, so the result does not
# run; it shows that everything else is present, and is used to test signing. Prints the program's path.
set -euo pipefail
cd "$(dirname "$0")/../../.."
# shellcheck source=tests/tools/lib.sh
. tests/tools/lib.sh
here=$PWD/tests/tools/darwin
zig_version=0.17.1

need python3 python3
zig=$DVN_CACHE/ziglang-$zig_version
if [ ! -d "$zig" ]; then
  python3 -m pip --version >/dev/null || die "pip is missing; install the Debian package python3-pip"
  say "fetching ziglang $zig_version (100 MB)"
  mkdir -p "$DVN_CACHE"
  work=$(mktemp -d "$DVN_CACHE/.ziglang.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" \
    "ziglang==$zig_version" >&2
  python3 -m zipfile -e "$work"/*.whl "$work/wheel"
  chmod +x "$work/wheel/ziglang/zig"
  mv -T "$work/wheel/ziglang" "$zig" 2>/dev/null || [ -d "$zig" ]   # another run may have made it meanwhile
fi
export DARWIN_ZIG=$zig

target=${CARGO_TARGET_DIR:-$PWD/target}
export SDKROOT=$target/darwin-sdk
"$here/stub_sdk.py" "$zig/lib/libc/darwin/libSystem.tbd" "$SDKROOT"
export CARGO_TARGET_DIR=$target/darwin-link
export CC_aarch64_apple_darwin=$here/zig-cc AR_aarch64_apple_darwin=$here/zig-ar
flags=(-Clinker=rust-lld -Clinker-flavor=ld64.lld -Clink-arg=-undefined -Clink-arg=dynamic_lookup)
flags+=("-Clink-arg=-F$SDKROOT/System/Library/Frameworks")
export CARGO_TARGET_AARCH64_APPLE_DARWIN_RUSTFLAGS="${flags[*]}"
cargo build --locked --quiet --target aarch64-apple-darwin --bin darwin-vz-nix
program=$CARGO_TARGET_DIR/aarch64-apple-darwin/debug/darwin-vz-nix
"$here/check_macho.py" "$program" >&2
# The check can fail: with one byte flipped in the middle, the signature must be invalid.
broken=$target/darwin-link/broken
python3 - "$program" "$broken" <<'PYTHON'
import sys
data = bytearray(open(sys.argv[1], "rb").read())
data[len(data) // 2] ^= 0xFF
open(sys.argv[2], "wb").write(data)
PYTHON
if "$here/check_macho.py" "$broken" &>/dev/null; then die "check_macho.py finds nothing wrong with a broken program"; fi
rm "$broken"
echo "$program"
