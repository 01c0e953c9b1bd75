#!/usr/bin/env bash
# Prints the path of schemathesis, which holds the HTTP API against its description. Makes it first, in the cache, from exactly
# the packages of schemathesis.txt; well under a second when it is there.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tests/tools/lib.sh
. ./lib.sh

need python3 python3
made=$(in_cache schemathesis schemathesis.sh schemathesis.txt)
if [ ! -e "$made/complete" ]; then
  python3 -c 'import ensurepip, venv' 2>/dev/null || die "Python cannot make an environment; install the Debian package python3-venv"
  mkdir -p "$(dirname "$made")"
  exec 9>"$(dirname "$made")/lock"
  flock 9
  if [ ! -e "$made/complete" ]; then   # another run may have made it while we waited
    say "installing schemathesis"
    rm -rf "$made"
    # In its place from the start, for its programs name it.
    python3 -m venv "$made" >&2
    "$made/bin/pip" --quiet --disable-pip-version-check install --no-deps --requirement schemathesis.txt >&2
    touch "$made/complete"
  fi
fi
echo "$made/bin/schemathesis"
