#!/usr/bin/env bash
# Fuzzes the parsers of untrusted input (fuzz/targets) for a while, guided by coverage.
#
#   fuzz.sh SECONDS [TARGET…]
#
# Begins with fuzz/seeds/TARGET and with the interesting inputs of earlier runs in target/fuzz/corpus. An input that breaks a
# property is kept in target/fuzz/found, and printed with the command that reproduces it. SEED makes a run less random.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tests/tools/lib.sh
. ./lib.sh
cd ../..

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || die "usage: fuzz.sh SECONDS [TARGET…]"
for_seconds=$1; shift
need g++ g++
targets=("$@")
[ ${#targets[@]} != 0 ] || for file in fuzz/targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
for target in "${targets[@]}"; do
  [ -f "fuzz/targets/$target.rs" ] || die "there is no fuzz/targets/$target.rs"
done

# With a clean environment, so that the dependencies are those that `cargo test` has built: only this project's own crates
# and libFuzzer are compiled again. Stable Rust has no sanitizers, which would find memory errors; there are only a few lines
# of `unsafe` here.
unset DVN_SWIFT RUSTFLAGS RUSTC_WORKSPACE_WRAPPER
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR
RUSTC_WRAPPER=$PWD/fuzz/instrument.sh cargo build --manifest-path fuzz/Cargo.toml --locked --bins --quiet

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
programs=$CARGO_TARGET_DIR/debug
kept=$CARGO_TARGET_DIR/fuzz
export for_seconds kept programs work

# fuzz TARGET: one line of figures, or the end of its log and the failing input.
fuzz() {
  local target=$1 log=$kept/log/$1 corpus=$kept/corpus/$1 found=$kept/found/$1
  mkdir -p "$(dirname "$log")" "$corpus" "$found" "$work/$target"
  # The directory for new inputs, and the seeds, which are only read.
  if TMPDIR=$work/$target "$programs/$target" "$corpus" "fuzz/seeds/$target" -max_total_time="$for_seconds" \
    -timeout=60 -rss_limit_mb=1024 -print_final_stats=1 ${SEED:+-seed="$SEED"} -artifact_prefix="$found/" >"$log" 2>&1
  then
    awk -v target="$target" '
      /cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") reached = $(i + 1) }
      /stat::number_of_executed_units/ { runs = $2 }
      /stat::peak_rss_mb/ { memory = $2 }
      END { printf "%-10s %9d inputs, %6d places reached, %4d MiB\n", target, runs, reached, memory }' "$log"
    return
  fi
  # The broken property, or libFuzzer's error; the rest is how it was reached.
  grep -A 4 -E "panicked at|^SUMMARY|ERROR: libFuzzer" "$log" | head -n 20
  local input
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  echo "fuzz: $target broke a promise${input:+ with $input}; again: $programs/$target ${input:-fuzz/seeds/$target/*}"
  return 1
}
export -f fuzz

# shellcheck disable=SC2016  # a parameter of the inner one
printf '%s\0' "${targets[@]}" | xargs -0 -n 1 -P "$(getconf _NPROCESSORS_ONLN)" bash -euo pipefail -c 'fuzz "$0"' ||
  die "see above; CONTRIBUTING.md says what to do with a found input"
