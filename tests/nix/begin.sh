# shellcheck shell=bash
# How check.sh and nixos.sh begin and end: a store of their own, what is counted as wrong, and what is said at the end. To be
# sourced in the repository's folder.

# The caller uses them.
# shellcheck disable=SC2034
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export NIX_REMOTE="local?root=$work/store" NIX_PATH=''
failures=0

# bad WHAT…: something is wrong. The others are looked at all the same.
bad() { echo "✗ $*" >&2; failures=$((failures + 1)); }

# part WHAT…: what comes next.
part() { echo "• $*"; }

# verdict: fails if anything was wrong.
verdict() {
  [ "$failures" = 0 ] || { echo "$failures checks failed" >&2; return 1; }
  echo "all checks passed"
}
