#!/usr/bin/env bash
# `make check-nix`: everything about the Nix half that can be checked without nixpkgs and without a network, in seconds.
#
#   check.sh            check
#   check.sh --update   write the snapshots and the options reference anew; then look at the difference
#
# With DVN_NIXPKGS and DVN_NIX_DARWIN, the folders of real copies, the same snapshots are compared with what nixpkgs' and
# nix-darwin's own modules make of our module, and the flake is evaluated (docs/nix-checks.md).
# shellcheck disable=SC2016  # patterns of sed and programs of jq, with their own $ and `
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DVN_TEST_NIX:?run this as: make check-nix}"
update=''
[ "${1:-}" != --update ] || update=1

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export NIX_REMOTE="local?root=$work/store" NIX_PATH=''
failures=0
bad() { echo "✗ $*" >&2; failures=$((failures + 1)); }
part() { echo "• $*"; }

# --- files ---------------------------------------------------------------------------------------------------------------

mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.nix')
part "${#files[@]} files: parsed, formatted, without dead code"
"$DVN_TEST_NIX/nix-instantiate" --parse "${files[@]}" >/dev/null || bad "a file does not parse"
nixfmt --check "${files[@]}" || bad "a file is not formatted: make fmt"
deadnix --fail --no-lambda-pattern-names "${files[@]}" || bad "there is dead code"

# --- the module --------------------------------------------------------------------------------------------------------

# evaluate GROUP NAME [ARGUMENT…]: what a configuration leads to, as JSON. Hashes of store paths are left out: they tell nothing
# but that something has changed, which the rest tells better.
evaluate() {
  local group=$1 name=$2
  shift 2
  "$DVN_TEST_NIX/nix-instantiate" --eval --strict --json --read-write-mode tests/nix/evaluate.nix \
    --argstr group "$group" --argstr name "$name" "$@" |
    jq --sort-keys . | sed -E 's|/nix/store/[a-z0-9]{32}-|/nix/store/…-|g'
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
    # An option of another project's module exists only among the stand-ins.
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
  { echo '#!/bin/bash'; echo 'set -e -o pipefail'; jq -r '.activation | .extraActivation[], .postActivation[]' "$work/$name.json"; } >"$work/activate"
  shellcheck "$work/activate" || bad "$name: activation"
  jq -r '.connectProgram | if . == [] then empty else "#!/bin/sh", .[1:][] end' "$work/$name.json" >"$work/connect"
  [ ! -s "$work/connect" ] || shellcheck "$work/connect" || bad "$name: the program of the direct door"
done

# --- guests ------------------------------------------------------------------------------------------------------------

part "pack.py"
python3 -B tests/nix/pack_test.py 2>"$work/err" || bad "pack.py: $(cat "$work/err")"

part "bundles of all guests, against the contract"
# What the Nix-made bundles say, what the Debian-made one says, what the agent has, and what the page says.
"$DVN_TEST_NIX/nix-instantiate" --eval --strict --json --expr \
  'import ./nix/bundle.nix { arch = "aarch64"; kernel = "Image"; cmdline = "-"; image = "system.img"; }' |
  jq --sort-keys . >"$work/ours.json"
sed -n '/<<JSON$/,/^JSON$/p' tests/guest/build.sh | sed '1d;$d' |
  sed 's/\$arch/aarch64/; s/\$kernel/Image/; s/\$cmdline/-/' | jq --sort-keys . >"$work/debian.json"
diff -u "$work/debian.json" "$work/ours.json" || bad "nix/bundle.nix and tests/guest/build.sh write different bundles"
constant() { sed -n "s/^pub const $1: u32 = \([0-9]*\);/\1/p" rust/agent/src/lib.rs; }
jq -e --argjson ssh "$(constant SSH_PORT)" --argjson nix "$(constant NIX_PORT)" --argjson version "$(constant VERSION)" \
  '.ssh.vsockPort == $ssh and .nix.vsockPort == $nix and .agent.protocol == $version and .version == $version' "$work/ours.json" >/dev/null ||
  bad "nix/bundle.nix has other numbers than rust/agent/src/lib.rs"
sed -n '/^## Bundle/,/^## What the host adds/p' docs/guest-contract.md | sed -n 's/^| `\([a-zA-Z]*\)` |.*/\1/p' | sort >"$work/fields"
diff -u "$work/fields" <(jq -r 'keys[]' "$work/ours.json") || bad "nix/bundle.nix has other fields than docs/guest-contract.md"

part "base guest's image, against the contract"
"$DVN_TEST_NIX/nix-instantiate" --eval --strict --json --expr '
  import ./nix/base-guest/layout.nix {
    lib = import ./tests/nix/mini/lib.nix;
    nix = "/N"; openssh = "/O"; e2fsprogs = "/E"; busybox = "/B"; busyboxShell = "/S";
    certificates = [ "/ca" ]; environment.http_proxy = "http://p";
  }' >"$work/layout.json"
for path in $(sed -n 's/^| directories the image must have | `\(.*\)` |$/\1/p' docs/guest-contract.md) \
  $(sed -n 's/^| programs the agent needs |\(.*\)|$/\1/p' docs/guest-contract.md | grep -o '/usr[a-z0-9/-]*'); do
  jq -e --arg path "$path" 'has($path) or any(keys[]; startswith($path + "/"))' "$work/layout.json" >/dev/null || bad "the base guest has no $path"
done
jq -e '(.["/etc/passwd"].text | (test("(?m)^builder:x:1000:") and test("(?m)^nixbld32:x:30032:30000:")))
  and (.["/etc/group"].text | test("(?m)^nixbld:x:30000:nixbld1,.*,nixbld32$"))
  and (.["/etc/shadow"] | (.mode == "0600" and (.text | test("(?m)^builder:\\*:"))))
  and .["/etc/nix/environment"].text == "http_proxy=http://p\n"
  and .["/etc/resolv.conf"].link == "../run/resolv.conf"' "$work/layout.json" >/dev/null || bad "the base guest has other users or files than the contract says"

part "docs/module-options.md"
"$DVN_TEST_NIX/nix-instantiate" --eval --json tests/nix/options.nix | jq -r . >"$work/module-options.md"
if [ -n "$update" ]; then cp "$work/module-options.md" docs/module-options.md; fi
diff -u docs/module-options.md "$work/module-options.md" || bad "docs/module-options.md is not that of the module: tests/nix/check.sh --update"

if [ -n "${DVN_NIXPKGS:-}" ] || [ -n "${DVN_NIX_DARWIN:-}" ]; then
  : "${DVN_NIXPKGS:?is to be set, too}" "${DVN_NIX_DARWIN:?is to be set, too}"
  update=''
  against "nix-darwin's options" --arg nixpkgs "$DVN_NIXPKGS" --arg nix-darwin "$DVN_NIX_DARWIN"
fi

[ "$failures" = 0 ] || { echo "$failures checks failed" >&2; exit 1; }
echo "all checks passed"
