#!/usr/bin/env bash
# `make check-nixos`: the NixOS guest with NixOS's own modules, as whole systems: all checks that need no build. DVN_NIXPKGS
# is the directory of a copy of nixpkgs (docs/nix-checks.md). Nothing is fetched.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DVN_TEST_NIX:?run this as: make check-nixos}"
: "${DVN_NIXPKGS:?is to be the folder of a copy of nixpkgs: DVN_NIXPKGS=… make check-nixos}"
[ -e "$DVN_NIXPKGS/nixos/lib/eval-config.nix" ] || { echo "there is no nixpkgs in $DVN_NIXPKGS" >&2; exit 1; }

# shellcheck source=tests/nix/begin.sh
. tests/nix/begin.sh
evaluate() { "$DVN_TEST_NIX/nix-instantiate" --quiet --eval --strict --json --read-write-mode "$@" 2>"$work/err"; }

# system NAME: a case of nixos.nix, in $work/NAME.json
system() {
  part "$1: a whole system and its bundle"
  evaluate tests/nix/nixos.nix --arg nixpkgs "$DVN_NIXPKGS" --argstr name "$1" >"$work/$1.json" ||
    { bad "$1 does not evaluate: $(cat "$work/err")"; return 1; }
  [ "$(jq -c '[.failed, .warnings]' "$work/$1.json")" = '[[],[]]' ] || bad "$1: NixOS complains: $(jq -c '.failed + .warnings' "$work/$1.json")"
}
# is NAME WHAT FILTER: a filter of jq which must be true of a case
is() { jq -e "$3" "$work/$1.json" >/dev/null || bad "$1: not so: $2"; }

if system plain; then
  is plain "a unit leaves the data disk clean, and stops last" '.units."darwin-vz-leave-clean.service" |
    contains("Before=sysinit.target shutdown.target") and contains("ExecStop=") and contains("WantedBy=sysinit.target")'
  is plain "resolved does not listen" '.resolved | contains("LLMNR=false") and contains("MulticastDNS=false")'
  is plain "there is no sshd, no getty" '.services | any(. == "sshd" or . == "getty@tty1") | not'
  is plain "no program raises its privileges" '.setuid == []'
  part "plain: what may be in it when it runs"
  # Not yet without perl, which activation needs: docs/nix.md.
  "$DVN_TEST_NIX/nix" --extra-experimental-features nix-command derivation show --recursive "$(jq -r .toplevel "$work/plain.json")" |
    python3 -B tests/nix/runtime.py "$(jq -r .toplevel "$work/plain.json")" \
      '^(libx11|libxext|libxcb|xauth)-' '^switch-to-configuration' '^sudo-' '^polkit-' '^nano-' '^lvm2-' '^cups' '^gtk[+0-9]' 2>"$work/err" ||
    bad "the guest has what it should not: $(cat "$work/err")"
fi
system intel || true
if system taste; then
  is taste "sudo works for a user who asks for it" '.setuid | any(. == "sudo")'
fi
system docker || true
if system perlless; then
  # A copy of nixpkgs without userborn has no such guest.
  is perlless "the store is there before /etc is looked for in it" '(.etcIsAnOverlay | not) or (.storeReaders | index("initrd-find-etc.service"))'
fi

part "what a user may change, and what not"
evaluate --expr "import ./tests/nix/defaults.nix { nixpkgs = $DVN_NIXPKGS; }" >"$work/complaints" || bad "it does not evaluate: $(cat "$work/err")"
[ "$(jq length "$work/complaints")" = 0 ] || bad "$(jq -r '.[]' "$work/complaints")"

part "the guest against its snapshot"
evaluate --expr "import ./tests/nix/guests.nix { nixpkgs = $DVN_NIXPKGS; }" |
  jq --sort-keys . | sed -E 's|/nix/store/[a-z0-9]{32}-|/nix/store/…-|g' >"$work/real.json"
python3 -B tests/nix/contained.py tests/nix/guests.json "$work/real.json" || bad "NixOS makes something else of the guest"

verdict
