#!/usr/bin/env bash
# `make demo-vms`: a machine is made from an ISO, installs itself, serves a page, is cloned, suspended and deleted. Every step is
# checked; the first that did not happen ends the demo with a message and exit code 1. Everything it makes is in one temporary
# directory, which it removes. Wants the environment of tests/tools/env.sh, and an ISO that installs itself, DVN_TEST_INSTALLER.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DVN_TEST_BUNDLE:?run this as: make demo-vms}" "${DVN_TEST_INSTALLER:?run this as: make demo-vms}"

# shellcheck source=tests/tools/steps.sh
. tests/tools/steps.sh

# state NAME: of a machine, as `get` says
state() { dvn get "$1" --json | jq -r .state; }
# until_state NAME STATE
until_state() { until [ "$(state "$1")" = "$2" ]; do sleep 0.3; done; }
page() { curl --silent --fail --max-time 5 "http://127.0.0.1:$1/"; }
until_page() { until page "$1" >/dev/null; do sleep 0.3; done; }
export -f state until_state page until_page

title "Preparing"
compile
cat >"$dir/config.toml" <<TOML
bundle = "$DVN_TEST_BUNDLE"
memory = "1G"
share-store = false
listen = "127.0.0.1:$(free_port)"
TOML
start_daemon

title "A machine from an ISO, which installs itself"
run "create" dvn create cistern --from-iso "$DVN_TEST_INSTALLER" --disk-size 2G --memory 512M --cores 1
run "start" dvn start cistern
run "the installation, until it has powered itself off" timeout 300 bash -c "until_state cistern stopped"
same "the medium of the installed machine" "$(dvn get cistern --json | jq -r '.hardware.medium')" null
dvn list --space | sed 's/^/    /'

title "It runs, and its server answers on this host"
port=$(free_port)
run "run --expose $port:8096" dvn run cistern --detach --expose "$port:8096" --wait-for agent
run "the page" timeout 120 bash -c "until_page $port"
page "$port" | sed 's/^/    /'
run "ip" dvn ip cistern --wait 60
run "exec" dvn exec cistern uname -a
sed 's/^/    /' "$dir/log"
run "screenshot" dvn screenshot cistern "$dir/screen.png"
ok "the screen: $(file -b "$dir/screen.png" 2>/dev/null || stat -c '%s bytes' "$dir/screen.png")"

title "Suspended, it keeps its memory"
run "a mark in the guest's memory" dvn exec cistern -- sh -c 'echo kept >/run/mark'
run "suspend" dvn suspend cistern
same "the state" "$(state cistern)" suspended
run "start" dvn start cistern
run "the agent answers" timeout 60 bash -c 'until dvn exec cistern true; do sleep 0.2; done'
same "the mark" "$(dvn exec cistern cat /run/mark)" kept
run "stop" dvn stop cistern
ok "$(tail -n 1 "$dir/log")"

title "Three clones, two of them at once"
for name in one two three; do run "clone cistern $name" dvn clone cistern "$name"; done
dvn list --space | sed 's/^/    /'
for name in one two; do run "run $name" dvn run "$name" --detach --no-graphics --wait-for agent; done
for name in one two; do run "exec $name" dvn exec "$name" -- sh -c "echo $name >/mark && sync && cat /mark"; done
for name in one two; do
  same "the mark of $name" "$(dvn exec "$name" cat /mark)" "$name"
  run "stop $name" dvn stop "$name"
done

title "Nothing is left"
run "delete" dvn delete cistern one two three
same "machines" "$(dvn list --quiet)" builder
same "directories of machines" "$(ls "$dir/state/machines")" builder
same "unfinished work" "$(ls -A "$dir/state/staging")" ''

printf '\n%s%sAll steps happened.%s\n' "$bold" "$green" "$plain"
