#!/usr/bin/env bash
# Runs the activation scripts that the module writes, and the program of the direct door, in a separate directory with
# stand-ins for a Mac's programs.
#
#   activation.sh SNAPSHOTS    the directory with the snapshots of check.sh, as just evaluated
# shellcheck disable=SC2016  # the stand-ins' own variables
set -euo pipefail
snapshots=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
mac=''
bad() { echo "✗ $case: $*"; failures=$((failures + 1)); }
begin() {
  case=$1
  mac=$work/$case
  mkdir -p "$mac/public" "$mac/lib"
  export mac
}

mkdir "$work/bin"
stand_in() { { echo '#!/bin/bash'; cat; } >"$work/bin/$1"; chmod 755 "$work/bin/$1"; }
# Owners of files are recorded, as tests need not be root.
stand_in chown <<<'echo "$@" >>"$mac/chown"; [ "$1" != -RP ] || echo "$2" >"$mac/owner"'
stand_in stat <<<'cat "$mac/owner" 2>/dev/null || echo 0:0'
stand_in sleep <<<'echo . >>"$mac/slept"'
stand_in sudo <<'END'
while [ "$1" != -- ]; do shift; done
shift
if [ "$1" = cat ]; then exec "$@"; fi
mkdir -p "$mac/lib/darwin-vz/machines/builder/run"
cd "$mac/lib/darwin-vz"
touch lock daemon.log daemon.log.1 launchd.log machines/builder/{data.img,console.log}
cp -p "$mac/../key" machines/builder/id_ed25519
echo "darwin-vz-builder ssh-ed25519 AAAA"
END
# launchd: `job` contains the loaded job; while `stopping` is a number, the unloaded job is still reported that many times.
stand_in launchctl <<'END'
echo "$@" >>"$mac/launchctl"
case $1 in
  print)
    if [ -e "$mac/stopping" ]; then
      left=$(($(cat "$mac/stopping") - 1))
      echo "$left" >"$mac/stopping"
      [ "$left" -gt 0 ] || rm "$mac/stopping" "$mac/job"
    fi
    cat "$mac/job" 2>/dev/null || exit 113
    ;;
  bootstrap)
    if [ -e "$mac/job" ] || [ -e "$mac/broken" ]; then echo "Bootstrap failed: 5: Input/output error" >&2; exit 5; fi
    cp "$mac/new" "$mac/job"
    ;;
  kickstart) ;;
  *) exit 64 ;;
esac
END
ssh-keygen -q -t ed25519 -N '' -C '' -f "$work/key"

# activate CONFIGURATION PART…: the output of its activation
activate() {
  local name=$1
  shift
  jq -r '.launchd["darwin-vz"].ProgramArguments[]?' "$snapshots/$name.json" >"$mac/new"
  {
    echo 'set -e -o pipefail'
    for part; do jq -r --arg part "$part" '.activation[$part][]' "$snapshots/$name.json"; done
  } | sed -E "s#(^|[ (\"])/(usr/)?s?bin/#\1#g; s#/(var/lib|opt/linux)/(darwin-vz|builder)\b#$mac/lib/darwin-vz#g; s#/etc/darwin-vz-nix#$mac/public#g" >"$mac/script"
  PATH=$work/bin:$PATH bash "$mac/script" 2>&1
}
all=(preActivation extraActivation postActivation)
files() { (cd "$mac/lib" && find . -mindepth 1 -printf '%P\n' | sort | paste -sd' '); }

for name in disabled disabled-without-disk; do
  begin "never-installed-$name"
  said=$(activate "$name" "${all[@]}") || bad "fails: $said"
  [ -z "$(files)$said" ] || bad "it makes $(files)"

  begin "not-ours-$name"
  mkdir -p "$mac/lib/darwin-vz/machines"
  touch "$mac/lib/darwin-vz/"{lock,letter} "$mac/lib/darwin-vz/machines/data"
  before=$(files)
  said=$(activate "$name" "${all[@]}") || bad "fails: $said"
  [ "$(files)" = "$before" ] || bad "of '$before' it leaves '$(files)'"
  if [ -e "$mac/chown" ]; then bad "an owner is changed: $(cat "$mac/chown")"; fi
done

begin refused
mkdir -p "$mac/lib/darwin-vz"
touch "$mac/lib/darwin-vz/letter"
if said=$(activate minimal "${all[@]}"); then bad "takes over a directory that has something in it"; fi
[[ $said == *"Name a directory that is empty"* ]] || bad "says: $said"
[ "$(files)" = "darwin-vz darwin-vz/letter" ] || bad "something is made: $(files)"
if [ -e "$mac/chown" ]; then bad "an owner is changed: $(cat "$mac/chown")"; fi

begin ours
mkdir "$mac/lib/darwin-vz" # empty, so it may be taken
for time in first second; do
  said=$(activate minimal "${all[@]}") || bad "the $time fails: $said"
done
[ "$(cat "$mac/chown")" = "-RP 31122:31122 $mac/lib/darwin-vz" ] || bad "owners change with each activation: $(cat "$mac/chown")"
[ "$(stat -c %a "$mac/lib/darwin-vz")" = 700 ] || bad "others may enter"
[ "$(cat "$mac/public/known_hosts")" = "darwin-vz-builder ssh-ed25519 AAAA" ] || bad "no host key is pinned"
[ ! -e "$mac/public/id_ed25519" ] || bad "the user key is where others can look"
touch "$mac/lib/darwin-vz/letter"
activate disabled "${all[@]}" >/dev/null || bad "cannot be disabled"
[ "$(files)" = "darwin-vz darwin-vz/.darwin-vz-nix darwin-vz/letter darwin-vz/machines darwin-vz/machines/builder darwin-vz/machines/builder/data.img" ] ||
  bad "with the disk it leaves '$(files)'"
[ ! -e "$mac/public" ] || bad "public files stay"
mkdir "$mac/public"
said=$(activate minimal "${all[@]}") || bad "cannot be enabled again: $said"
activate disabled-without-disk "${all[@]}" >/dev/null || bad "cannot be disabled without its disk"
[ "$(files)" = "darwin-vz darwin-vz/letter" ] || bad "it leaves '$(files)'"

begin without-any-disk
activate minimal preActivation extraActivation >/dev/null || bad "fails"
activate disabled "${all[@]}" >/dev/null || bad "cannot be disabled"
[ -z "$(files)" ] || bad "it leaves '$(files)'"

begin key-for-administrators
activate everything "${all[@]}" >/dev/null || bad "fails"
key=$mac/public/id_ed25519
[ "$(stat -c %a "$key")" = 640 ] || bad "the key has mode $(stat -c %a "$key")"
owner=$(sed -n "s|^\([0-9]*\):admin $key.new\$|\1|p" "$mac/chown")
[ "$owner" = 4000 ] || bad "the key's owner is '$owner'"
if [ "$(id -u)" = 0 ]; then
  chmod 755 "$work" "$mac" "$mac/public"
  command chown "$owner:31199" "$key"
  ssh-keygen -y -f "$key" >/dev/null || bad "ssh refuses root the key"
  setpriv --reuid nobody --regid nogroup --groups 31199 ssh-keygen -y -f "$key" >/dev/null || bad "ssh refuses an administrator the key"
  if setpriv --reuid nobody --regid nogroup --clear-groups ssh-keygen -y -f "$key" 2>/dev/null; then bad "everybody can read the key"; fi
else
  echo "not root, so ssh is not asked what it thinks of the key's owner"
fi

begin loaded
activate minimal postActivation >/dev/null || bad "fails"
sed -i '/^bootstrap/d' "$mac/launchctl"
activate minimal postActivation >/dev/null || bad "fails"
if grep -q bootstrap "$mac/launchctl"; then bad "a job that launchd has is loaded again"; fi

begin changed-while-a-guest-runs
echo "exec old-program" >"$mac/job"
echo 20 >"$mac/stopping"
said=$(activate minimal postActivation) || bad "fails: $said"
cmp -s "$mac/job" "$mac/new" || bad "launchd has no job, or the one from before"
[[ $said == *"waiting for the Linux builder to stop"* ]] || bad "says: $said"

begin never-loaded
touch "$mac/broken"
said=$(activate minimal postActivation) || bad "fails: $said"
[[ $said == *"sudo launchctl bootstrap system /Library/LaunchDaemons/org.nixos.darwin-vz.plist"* ]] || bad "says: $said"
[ "$(wc -l <"$mac/slept")" -gt 60 ] || bad "waits shorter than launchd does for a job to end"

begin direct-door
jq -r '.connectProgram[1:][]' "$snapshots/minimal.json" |
  sed -E "s#^ *code=0#&; set -- #; s#(^|[ (\"])/(usr/)?s?bin/#\1#g; s#/nix/store/[^ ]*/bin/darwin-vz-nix#darwin-vz-nix#" >"$mac/connect"
# launchd does not start a job twice within ten seconds.
stand_in darwin-vz-nix <<<'[ "$(wc -l <"$mac/slept")" -gt 120 ] && echo connected || exit 4'
touch "$mac/slept"
said=$(PATH=$work/bin:$PATH bash "$mac/connect") || bad "gives up after $(wc -l <"$mac/slept") tenths of a second"
[ "$said" = connected ] || bad "says '$said'"
[ "$(grep -c kickstart "$mac/launchctl")" = 1 ] || bad "launchd is asked more than once"

[ "$failures" = 0 ]
