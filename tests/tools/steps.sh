# shellcheck shell=bash
# What the demonstrations share: a temporary directory, steps that are checked and timed, and a clean end. To be sourced by bash.
#
# Sets dir, the directory with all that a demonstration makes, which goes at its end; a daemon in $daemon is ended then.

# shellcheck disable=SC2034  # for the demonstrations
dir=$(mktemp -d /tmp/dvn-demo.XXXXXX)   # short: the paths of Unix sockets may not exceed 107 bytes
daemon='' job=''
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
  local console
  for console in "$dir"/state/machines/*/console.log; do tail_of "the console of $(basename "$(dirname "$console")")" "$console"; done
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

compile() {
  run "compiling darwin-vz-nix" cargo build --release --locked --quiet --bin darwin-vz-nix
  [ -x "$program" ] || fail "cargo left no $program"
}

# free_port: prints a port of the loopback address that was free a moment ago
free_port() {
  local port
  for _ in {1..50}; do
    port=$((RANDOM % 20000 + 20000))
    if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  done
  echo "$port"
}

# start_daemon: in the background, until it answers
start_daemon() {
  set -m   # Ctrl-C is for the script, which then ends the daemon, which ends its guests
  "$program" --state-dir "$dir/state" --config "$dir/config.toml" daemon </dev/null >"$dir/daemon.log" 2>&1 &
  daemon=$!
  set +m
  # shellcheck disable=SC2317  # called by the bash below
  answers() { until dvn status --json >/dev/null; do kill -0 "$daemon" || return 1; sleep 0.05; done; }
  export -f answers dvn; export program dir daemon
  run "the daemon answers" timeout 20 bash -c answers
}
