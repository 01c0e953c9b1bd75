#!/bin/sh
# Cargo's rustc wrapper for tests/tools/fuzz.sh: instruments the crates of this project for coverage, with the flags
# that cargo-fuzz gives to all crates. Other crates stay as the tests have built them; their generic code is compiled,
# and counted, in ours.
case ${CARGO_PKG_NAME:-}:" $* " in
  *" --crate-name build_script_build "*) exec "$@" ;;
  darwin-vz-* | dvn-*)
    exec "$@" --cfg fuzzing -Cpasses=sancov-module \
      -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
      -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares \
      -Cllvm-args=-simplifycfg-branch-fold-threshold=0 ;;
  *) exec "$@" ;;
esac
