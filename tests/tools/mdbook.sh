#!/usr/bin/env bash
# Prints the path of mdbook, which makes the book of docs/. Builds it first, in the cache; well under a second when it is there.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tests/tools/lib.sh
. ./lib.sh

version=0.5.4

need cargo cargo
made=$(in_cache mdbook mdbook.sh)
if [ ! -x "$made/bin/mdbook" ]; then
  mkdir -p "$(dirname "$made")"
  exec 9>"$(dirname "$made")/lock"
  flock 9
  if [ ! -x "$made/bin/mdbook" ]; then   # another run may have made it while we waited
    say "building mdbook $version"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    # Not optimised: it makes one small book at a time. Nor does it search, serve or watch.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$scratch/target cargo --quiet install mdbook --version "$version" \
      --locked --no-default-features --debug --no-track --root "$scratch/root" >&2
    mkdir -p "$made"
    mv "$scratch/root/bin" "$made/"
  fi
fi
echo "$made/bin/mdbook"
