#!/usr/bin/env bash
# `make check-nix`: everything about the Nix half that can be checked without nixpkgs and without a network, in seconds.
#
#   check.sh            check
#   check.sh --update   regenerate the snapshots and the options reference; then review the difference
#
# With DVN_NIXPKGS and DVN_NIX_DARWIN, directories of real copies, the same snapshots are compared with the results of
# nixpkgs' and nix-darwin's own modules, and the flake is evaluated (docs/nix-checks.md).
# shellcheck disable=SC2016  # patterns of sed and programs of jq, with their own $ and `
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DVN_TEST_NIX:?run this as: make check-nix}"
update=''
[ "${1:-}" != --update ] || update=1

# shellcheck source=tests/nix/begin.sh
. tests/nix/begin.sh

# --- files ---------------------------------------------------------------------------------------------------------------

mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.nix')
part "${#files[@]} files: parsed, formatted, without dead code"
"$DVN_TEST_NIX/nix-instantiate" --parse "${files[@]}" >/dev/null || bad "a file does not parse"
nixfmt --check "${files[@]}" || bad "a file is not formatted: make fmt"
deadnix --fail --no-lambda-pattern-names "${files[@]}" || bad "there is dead code"

# --- the module --------------------------------------------------------------------------------------------------------

# evaluate GROUP NAME [ARGUMENT…]: the result of a configuration, as JSON. Hashes of store paths are left out: they only show
# that something has changed, which the rest shows better.
evaluate() {
  local group=$1 name=$2
  shift 2
  "$DVN_TEST_NIX/nix-instantiate" --eval --strict --json --read-write-mode tests/nix/evaluate.nix \
    --argstr group "$group" --argstr name "$name" "$@" |
    sed -E 's|/nix/store/[a-z0-9]{32}-|/nix/store/…-|g' | jq --sort-keys .
}
names() {
  "$DVN_TEST_NIX/nix-instantiate" --eval --strict --json --expr "builtins.attrNames ($1)" | jq -r '.[]'
}

mapfile -t scenarios < <(names 'import ./tests/nix/scenarios.nix')
mapfile -t asserted < <(names '(import ./tests/nix/refused.nix).asserted')
mapfile -t throws < <(names '(import ./tests/nix/refused.nix).throws')
snapshots=tests/nix/snapshots

# against WHERE [ARGUMENT…]: every configuration, accepted and refused
against() {
  local where=$1 name said message
  shift
  part "$where: ${#scenarios[@]} configurations against their snapshots"
  for name in "${scenarios[@]}"; do
    if ! evaluate scenarios "$name" "$@" >"$work/$name.json" 2>"$work/err"; then
      bad "$name does not evaluate: $(cat "$work/err")"
    elif [ -n "$update" ]; then
      cp "$work/$name.json" "$snapshots/$name.json"
    else
      diff -u "$snapshots/$name.json" "$work/$name.json" || bad "$name is not as in its snapshot; if it should be: tests/nix/check.sh --update"
    fi
  done
  part "$where: $((${#asserted[@]} + ${#throws[@]})) configurations that must be refused"
  for name in "${asserted[@]}"; do
    said=$(says asserted "$name")
    # An option of another project's module exists only in the stand-ins.
    if [ $# -gt 0 ] && [ "$("$DVN_TEST_NIX/nix-instantiate" --eval --expr "(import ./tests/nix/refused.nix).asserted.$name.foreign or false")" = true ]; then continue; fi
    message=$(evaluate asserted "$name" "$@" 2>"$work/err") || { bad "$name does not evaluate: $(cat "$work/err")"; continue; }
    jq -e --arg said "$said" 'any(.failed[]?; contains($said))' <<<"$message" >/dev/null ||
      bad "$name is not refused with '$said', but with: $(jq -c '.failed' <<<"$message")"
  done
  for name in "${throws[@]}"; do
    said=$(says throws "$name")
    # nixpkgs quotes option names in another way.
    if evaluate throws "$name" "$@" >/dev/null 2>"$work/err"; then
      bad "$name is not refused"
    elif ! grep -qF -- "${said//\'/}" <(tr -d "\`'’" <"$work/err"); then
      bad "$name is refused, but not because of '$said': $(cat "$work/err")"
    fi
  done
}
says() { "$DVN_TEST_NIX/nix-instantiate" --eval --json --expr "(import ./tests/nix/refused.nix).$1.$2.says" | jq -r .; }

[ -z "$update" ] || mkdir -p "$snapshots"
against "stand-in options"
for file in "$snapshots"/*.json; do
  name=$(basename "$file" .json)
  [ -e "$work/$name.json" ] || bad "$file belongs to no configuration: remove it"
done

# --- what the module writes, read by those for whom it is ------------------------------------------------------------------

part "ssh configuration, as ssh understands it"
for name in "${scenarios[@]}"; do
  jq -e '.etc["ssh/ssh_config.d/100-darwin-vz-nix.conf"]' "$work/$name.json" >/dev/null || continue
  jq -r '.etc["ssh/ssh_config.d/100-darwin-vz-nix.conf"][]' "$work/$name.json" >"$work/ssh_config"
  ssh -TG -F "$work/ssh_config" darwin-vz-builder >"$work/ssh" || { bad "$name: ssh does not read its configuration"; continue; }
  port=$(jq -r '.launchd["darwin-vz"].Sockets.Listeners.SockServiceName' "$work/$name.json")
  for line in "hostname 127.0.0.1" "port $port" "user builder" "hostkeyalias darwin-vz-builder" "stricthostkeychecking true" \
    "userknownhostsfile /etc/darwin-vz-nix/known_hosts" "identitiesonly yes"; do
    grep -qix -- "$line" "$work/ssh" || bad "$name: ssh does not see '$line'"
  done
  [ "$(grep -c '^identityfile ' "$work/ssh")" = 1 ] || bad "$name: ssh would try other keys, too"
  ssh -TG -F "$work/ssh_config" example.org | grep -q 'hostkeyalias\|darwin-vz' && bad "$name: the configuration touches other hosts"
done

part "scripts, by shellcheck"
for name in "${scenarios[@]}"; do
  { echo '#!/bin/bash'; echo 'set -e -o pipefail'; jq -r '.activation | .preActivation[], .extraActivation[], .postActivation[]' "$work/$name.json"; } >"$work/activate"
  shellcheck "$work/activate" || bad "$name: activation"
  jq -r '.connectProgram | if . == [] then empty else "#!/bin/sh", .[1:][] end' "$work/$name.json" >"$work/connect"
  [ ! -s "$work/connect" ] || shellcheck "$work/connect" || bad "$name: the program of the direct door"
done

part "activation, run"
tests/nix/activation.sh "$work" >"$work/out" 2>&1 || bad "activation: $(cat "$work/out")"

# --- guests ------------------------------------------------------------------------------------------------------------

part "pack.py"
python3 -B tests/nix/pack_test.py 2>"$work/err" || bad "pack.py: $(cat "$work/err")"

part "the guests that Nix makes, against their snapshot"
# tests/contract.rs compares it with docs/guest-contract.md, and with the Debian test guest.
guests() {
  "$DVN_TEST_NIX/nix-instantiate" --eval --strict --json --read-write-mode --expr "import ./tests/nix/guests.nix { $1 }" |
    jq --sort-keys . | sed -E 's|/nix/store/[a-z0-9]{32}-|/nix/store/…-|g'
}
guests '' >"$work/guests.json"
if [ -n "$update" ]; then cp "$work/guests.json" tests/nix/guests.json; fi
diff -u tests/nix/guests.json "$work/guests.json" || bad "the guests are not as in tests/nix/guests.json; if they should be: tests/nix/check.sh --update"

part "docs/module-options.md"
"$DVN_TEST_NIX/nix-instantiate" --eval --json tests/nix/options.nix | jq -r . >"$work/module-options.md"
if [ -n "$update" ]; then cp "$work/module-options.md" docs/module-options.md; fi
diff -u docs/module-options.md "$work/module-options.md" || bad "docs/module-options.md is not that of the module: tests/nix/check.sh --update"

part "README.md: from nothing to a Linux builder in ten lines"
sed -n '/^```nix$/,/^```$/p' README.md | sed '1d;/^```$/,$d' >"$work/flake.nix"
lines=$(wc -l <"$work/flake.nix")
((lines > 0 && lines <= 10)) || bad "README.md: the flake has $lines lines"
readme() {
  "$DVN_TEST_NIX/nix-instantiate" --eval --strict --read-write-mode tests/nix/readme.nix --arg flake "$work/flake.nix" "$@" 2>"$work/err" >"$work/out" ||
    bad "README.md: $(cat "$work/err")"
  [ "$(cat "$work/out")" = true ] || bad "README.md: the service is not enabled"
}
readme

part "the template, with nothing to fetch but the repository"
# A copy, as git would make it, without access to any input.
mkdir "$work/repository"
git ls-files --cached --others --exclude-standard flake.nix nix | xargs cp --parents -t "$work/repository"
init() {
  mkdir -p "$work/$1" && (cd "$work/$1" && env HOME="$work" https_proxy=http://127.0.0.1:1 http_proxy=http://127.0.0.1:1 \
    "$DVN_TEST_NIX/nix" --extra-experimental-features 'nix-command flakes' --option flake-registry '' --option connect-timeout 1 \
    --option download-attempts 1 flake init -t "path:$work/repository$2") &>"$work/out"
}
init mac '?dir=nix/templates' || bad "the template cannot be had: $(cat "$work/out")"
diff -r nix/templates/mac "$work/mac" || bad "the template arrives as something else"
# Otherwise this would prove nothing.
if init control '' && [ ! -e flake.lock ]; then bad "the flake itself needs no input: the test has one at hand"; fi
# The documented command names an existing directory.
grep -rhoE "flake init -t [^ \`]+" README.md docs | sort -u >"$work/out"
[ "$(cat "$work/out")" = "flake init -t 'github:darwin-vz-nix/darwin-vz-nix?dir=nix/templates'" ] || bad "the pages show: $(cat "$work/out")"

if [ -n "${DVN_NIXPKGS:-}" ] || [ -n "${DVN_NIX_DARWIN:-}" ]; then
  : "${DVN_NIXPKGS:?is to be set, too}" "${DVN_NIX_DARWIN:?is to be set, too}"
  update=''
  real=(--arg nixpkgs "$DVN_NIXPKGS" --arg nix-darwin "$DVN_NIX_DARWIN")
  against "nix-darwin's options" "${real[@]}"
  part "property lists, as nix-darwin writes them and Apple's rules read them"
  for name in everything always-on; do
    "$DVN_TEST_NIX/nix-instantiate" --eval --strict --json --read-write-mode tests/nix/plists.nix --argstr name "$name" "${real[@]}" |
      python3 -c 'import json, plistlib, sys
jobs = {name: plistlib.loads(text.encode()) for name, text in json.load(sys.stdin).items()}
json.dump({job["Label"].removeprefix("org.nixos."): job for job in jobs.values()}, sys.stdout)' |
      jq --sort-keys . | sed -E 's|/nix/store/[a-z0-9]{32}-|/nix/store/…-|g' >"$work/plists"
    diff -u <(jq --sort-keys .launchd "$work/$name.json") "$work/plists" || bad "$name: nix-darwin writes another property list"
  done
  part "NixOS's options: the guest against its snapshot"
  guests "nixpkgs = $DVN_NIXPKGS;" >"$work/real.json"
  python3 -B tests/nix/contained.py "$work/guests.json" "$work/real.json" || bad "NixOS makes something else of the guest"
  part "README.md's flake, as a whole system"
  readme "${real[@]}"
  part "what a Mac builds, and what its guest builds"
  system=$("$DVN_TEST_NIX/nix-instantiate" --quiet tests/nix/system.nix "${real[@]}" 2>"$work/err") || bad "no system: $(cat "$work/err")"
  "$DVN_TEST_NIX/nix" --extra-experimental-features nix-command derivation show --recursive "$system" |
    python3 -B tests/nix/closure.py 2>"$work/err" || bad "$(cat "$work/err")"
fi

verdict
