#!/usr/bin/env bash
# `make demo`: a Nix build starts a VM by itself, runs in it, its result comes back, and the VM stops when idle. Every
# step is checked; the first that did not happen ends the demo with a message and exit code 1. Everything it makes is in
# one temporary directory, which it removes. Wants the environment of tests/tools/env.sh and a guest bundle, DVN_TEST_BUNDLE.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${DVN_TEST_NIX:?run this as: make demo}" "${DVN_TEST_BUNDLE:?run this as: make demo}"

dir=$(mktemp -d /tmp/dvn-demo.XXXXXX)   # short: the paths of Unix sockets may not exceed 107 bytes
daemon='' job=''
idle=5          # seconds
console=$dir/state/machines/builder/console.log
tty=''; if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ]; then tty=1; fi
bold='' dim='' green='' red='' plain=''
if [ -n "$tty" ]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; fi

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

# end TARGET: stops a process, or a group given as -PID, and waits for it, at most 20 seconds.
end() {
  kill -- "$1" 2>/dev/null || true
  for _ in {1..200}; do kill -0 -- "$1" 2>/dev/null || break; sleep 0.1; done
  kill -9 -- "$1" 2>/dev/null || true
}
cleanup() {
  trap - EXIT
  trap '' INT TERM
  [ -z "$job" ] || end "-$job"
  [ -z "$daemon" ] || end "$daemon"
  chmod -R u+w "$dir" 2>/dev/null || true   # Nix makes what is in a store read-only
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
ok() { printf '  %s✓%s %s\n' "$green" "$plain" "$*"; }
tail_of() { if [ -s "$2" ]; then printf '%s\n' "--- last lines of $1" >&2; tail -n 15 "$2" >&2; fi; }
fail() {
  printf '\n%s✗ %s%s\n' "$red" "$*" "$plain" >&2
  tail_of "the last command" "$dir/log"
  tail_of "the daemon's log" "$dir/daemon.log"
  tail_of "the guest's console" "$console"
  exit 1
}
same() { [ "$2" = "$3" ] || fail "$1: expected '$3', found '$2'"; }
differ() { [ "$2" != "$3" ] || fail "$1: both are '$2'"; }

# run WHAT COMMAND…: WHAT and the time that passes are shown while it runs; its output goes to $dir/log.
run() {
  local what=$1 start log_line last=0 passed i=0 frames='|/-+'
  shift
  start=$(now_ms)
  : >"$dir/log"
  set -m   # a process group of its own, so that all of it can be ended
  "$@" </dev/null >"$dir/log" 2>&1 &
  job=$!
  set +m
  while kill -0 "$job" 2>/dev/null; do
    passed=$(($(now_ms) - start))
    if [ -n "$tty" ]; then
      log_line=$(tail -n 1 "$dir/log" | tr -d '\r\033' | cut -c1-50)
      printf '\r\e[K  %s %s %s %s%s%s' "${frames:i++%4:1}" "$what" "$(seconds "$passed")" "$dim" "$log_line" "$plain"
    elif [ $((passed / 10000)) -gt "$last" ]; then
      last=$((passed / 10000))
      printf '  … %s %s\n' "$what" "$(seconds "$passed")"
    fi
    sleep 0.1
  done
  if [ -n "$tty" ]; then printf '\r\e[K'; fi
  local code=0
  wait "$job" || code=$?
  job=''
  [ "$code" = 0 ] || fail "$what: exit code $code after $(seconds $(($(now_ms) - start)))"
  ok "$what ($(seconds $(($(now_ms) - start))))"
}

program=${CARGO_TARGET_DIR:-$PWD/target}/release/darwin-vz-nix
dvn() { "$program" --state-dir "$dir/state" --config "$dir/config.toml" "$@"; }
# status FILTER [OPTION…]: of jq, on what `status` says
status() { dvn status --json 2>"$dir/log" | jq -er "${@:2}" "$1" || fail "status does not answer or lacks $1"; }

title "Preparing"
run "compiling darwin-vz-nix" cargo build --release --locked --quiet --bin darwin-vz-nix
[ -x "$program" ] || fail "cargo left no $program"
arch=$(jq -er .arch "$DVN_TEST_BUNDLE/guest.json") || fail "$DVN_TEST_BUNDLE is no guest bundle"
for _ in {1..50}; do
  port=$((RANDOM % 20000 + 20000))
  if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
done
cat >"$dir/config.toml" <<TOML
bundle = "$DVN_TEST_BUNDLE"
cores = $(($(nproc) < 2 ? 1 : 2))
memory = "1G"
disk-size = "4G"
idle-timeout = "${idle}s"
stop-grace = "10s"
share-store = false
listen = "127.0.0.1:$port"
TOML

title "A daemon that listens, and no VM"
set -m   # Ctrl-C is for this script, which then ends the daemon, which ends its guest
"$program" --state-dir "$dir/state" --config "$dir/config.toml" daemon </dev/null >"$dir/daemon.log" 2>&1 &
daemon=$!
set +m
answers() { until dvn status --json >/dev/null; do kill -0 "$daemon" || return 1; sleep 0.05; done; }
export -f answers dvn; export program dir daemon
run "the daemon answers" timeout 20 bash -c answers
same "the machine" "$(status '.machines[0].state')" stopped
same "boots so far" "$(status '.machines[0].boots')" 0
# Looked up, not tried: a connection would start the VM.
awk -v a="$(printf '0100007F:%04X' "$port")" '$2 == a && $4 == "0A" { found = 1 } END { exit !found }' /proc/net/tcp ||
  fail "no process listens on 127.0.0.1:$port"
ok "listening on 127.0.0.1:$port, the machine is stopped ($(status '.machines[0] | .backend + ", " + .accelerator'))"
dvn status | sed 's/^/    /'

# build DOOR: one derivation on the machine, through that door; each line of Nix's output gets the time it came.
build() {
  local door=$1
  dvn nix-config --only builders --door "$door" >"$dir/builders"
  NIX_REMOTE="local?root=$dir/host" timeout 300 "$DVN_TEST_NIX/nix" build --file tests/tools/demo.nix \
    --argstr system "$arch-linux" --argstr door "$door" --no-link --print-out-paths --print-build-logs \
    --max-jobs 0 --builders "$(cat "$dir/builders")" 2>&1 >"$dir/result" |
    while IFS= read -r line; do
      printf '%s\n' "$line"
      printf '%s %s\n' "$(now_ms)" "$line" >>"$dir/$door.log"
    done
}
said() { sed -n "s/^[0-9]* .*> $2: //p" "$dir/$1.log" | head -n 1; }
# came_back DOOR: the build's output and result, and that both tell of the same guest
came_back() {
  local door=$1 result
  ended=$(now_ms)
  grep -E '> (kernel|host name|boot id): ' "$dir/$door.log" | sed 's/^[0-9]* /    /' || fail "the build printed nothing"
  kernel=$(said "$door" kernel) boot_id=$(said "$door" 'boot id')
  if [ -z "$kernel" ] || [ -z "$boot_id" ]; then fail "the build did not say where it ran"; fi
  differ "boot id of the build and of this host" "$boot_id" "$(cat /proc/sys/kernel/random/boot_id)"
  result=$(cat "$dir/result")
  [ -s "$dir/host$result" ] || fail "the result '$result' is not in this host's store"
  same "the result" "$(cat "$dir/host$result")" "$kernel $boot_id"
  ok "the result is in this host's store: $result"
}

title "A Nix build, through the direct door; this host may not build it itself"
run "nix build" build direct
came_back direct
first_line_at=$(sed -n 's/^\([0-9]*\) .*> kernel: .*/\1/p' "$dir/direct.log" | head -n 1)
result_at=$ended
direct_kernel=$kernel direct_boot_id=$boot_id
same "boots because of it" "$(status '.machines[0].boots')" 1

title "Where was that?"
ssh_says() { dvn ssh -- cat /proc/sys/kernel/hostname /proc/sys/kernel/random/boot_id >"$dir/guest"; }
run "darwin-vz-nix ssh" ssh_says
{ read -r guest_name; read -r guest_boot_id; } <"$dir/guest" || fail "the guest did not tell its name"
same "boot id of the build and of the VM" "$direct_boot_id" "$guest_boot_id"
differ "host name of the VM and of this host" "$guest_name" "$(cat /proc/sys/kernel/hostname)"
ok "in the VM '$guest_name' with Linux $direct_kernel; this host is '$(cat /proc/sys/kernel/hostname)' with $(uname -r)"

title "Another, through the SSH door"
dvn nix-config --only ssh >"$dir/ssh_config" 2>"$dir/log" || fail "nix-config printed no ssh configuration"
dvn nix-config --only known-hosts >"$dir/known_hosts" 2>"$dir/log" || fail "nix-config printed no known_hosts entry"
NIX_SSHOPTS="-F $dir/ssh_config -o UserKnownHostsFile=$dir/known_hosts -o StrictHostKeyChecking=yes -o BatchMode=yes"
export NIX_SSHOPTS
run "nix build" build ssh
came_back ssh
same "boot id of both builds" "$boot_id" "$direct_boot_id"
same "boots for both builds" "$(status '.machines[0].boots')" 1
ok "the same VM: one boot for both builds"

title "The VM stops by itself"
since=$(now_ms)
stopped() { until [ "$(dvn status --json | jq -r '.machines[0].state')" = stopped ]; do sleep 0.2; done; }
export -f stopped
run "idle for $idle s, then off" timeout 60 bash -c "set -euo pipefail; stopped"
took=$(($(now_ms) - since))
[ "$took" -ge $((idle * 1000 - 1500)) ] ||
  fail "the VM stopped after $(seconds "$took") already; it may be idle for $idle s"
same "how the VM ended" "$(status '.machines[0].lastExit')" powered-off
same "boots in all" "$(status '.machines[0].boots')" 1
ok "powered off cleanly; the next build starts it again"

title "Timeline of the boot"
# shellcheck disable=SC2016  # jq's variables
status '.machines[0].lastBoot | .demandUnixMs as $start | [{name: "connect", atMs: 0}] + .phases
  + [{name: "first line of the build", atMs: ($first - $start)}, {name: "result in the store", atMs: ($last - $start)}]
  | .[] | "\(.atMs)\t\(.name)"' --argjson first "$first_line_at" --argjson last "$result_at" >"$dir/timeline"
for phase in hypervisor kernel sshd banner; do
  grep -q "$phase" "$dir/timeline" || fail "the boot's timeline lacks '$phase': $(cut -f2 "$dir/timeline" | paste -sd,)"
done
sort -c -n "$dir/timeline" 2>/dev/null || fail "the boot's timeline is not in order: $(paste -sd, "$dir/timeline")"
awk -F'\t' -v total="$(tail -n 1 "$dir/timeline" | cut -f1)" '{
  bar = ""; for (i = 0; i < 40 * ($1 - before) / (total ? total : 1); i++) bar = bar "#"
  printf "  %6.2f s  %-26s +%5d ms %s\n", $1 / 1000, $2, $1 - before, bar; before = $1 }' "$dir/timeline"

printf '\n%s%sAll steps happened.%s\n' "$bold" "$green" "$plain"
