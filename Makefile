# The two to know: `make demo` and `make test`. They install what they need (see tests/tools/setup.sh).
# Guests to build for tests and demo; the host's own comes first.
GUESTS ?= $(shell uname -m) $(filter-out $(shell uname -m),x86_64 aarch64)

# End-to-end tests of features that only the backend qemu has: it looks for helper programs, ends those that an earlier
# daemon left, and boots guests of another architecture. Virtualization does none of this. The stand-in also cannot pause
# a guest with open connections repeatedly: it uses QEMU for that, within the limits of decision 0015. The guest's PID 1
# makes no difference to a backend.
ABOUT_QEMU := pause:: systemd:: vms::a_suspended_machine missing_programs_name_their_packages \
  an_orphan_of_an_earlier_daemon_is_ended_before_the_next_boot an_aarch64_guest_boots_builds_and_powers_off \
  one_boot_takes_thousands_of_connections_through_both_doors

# A backend cannot change the results of these: versions of Nix and of ssh at the doors, the door's limits, what Nix collects
# on the guest's disk, limits of builds, which guest system boots next, and what the program refuses before a boot.
NOT_OF_BACKENDS := clients:: ssh_config:: unauthenticated:: store::space store::collection limits:: generations:: guides:: refusals::

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo demo-vms test bench fuzz chaos lint locks check-darwin check-names check-nix check-nixos check-guests link-darwin sign fmt deny book references guest setup checks tests-setup clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: setup ## watch a build start a VM, run in it, and the VM stop
	@source tests/tools/env.sh
	guests $(firstword $(GUESTS))
	tests/tools/demo.sh

demo-vms: setup ## watch a machine install itself from an ISO, serve, be suspended, cloned and deleted
	@source tests/tools/env.sh
	guests $(firstword $(GUESTS))
	installer $(firstword $(GUESTS))
	tests/tools/demo-vms.sh

test: tests-setup ## everything except the benchmarks
	@source tests/tools/env.sh
	guests $(GUESTS)
	DVN_TEST_BUNDLE_systemd=$$(tests/guest/variants.sh systemd)
	export DVN_TEST_BUNDLE_systemd
	medium $(firstword $(GUESTS))
	installer $(firstword $(GUESTS))
	with_swift
	DVN_SCHEMATHESIS=$$(tests/tools/schemathesis.sh)
	DVN_MDBOOK=$$(tests/tools/mdbook.sh)
	export DVN_SCHEMATHESIS DVN_MDBOOK DVN_CHAOS_FAULTS=6 DVN_CHAOS_SEED=37000 DVN_TEST_SEED=1795290949
	cargo test --workspace --locked --no-fail-fast
	echo "== once more end to end, through the backend vz"
	# With the whole workspace, so that crates are not compiled again with fewer features.
	DVN_TEST_BACKEND=vz cargo test --workspace --locked --test e2e -- $(addprefix --skip ,$(ABOUT_QEMU) $(NOT_OF_BACKENDS))
	echo "== the readers of foreign bytes, fuzzed briefly"
	tests/tools/fuzz.sh 6

bench: setup ## the figures of docs/ARCHITECTURE.md, as a table and in bench.json
	@source tests/tools/env.sh
	guests $(firstword $(GUESTS))
	cargo bench --locked --bench spine

fuzz: setup ## coverage-guided fuzzing of all readers of foreign bytes: SECONDS=60, TARGET=name, SEED=…
	@SEED="$(SEED)" tests/tools/fuzz.sh "$(or $(SECONDS),60)" $(TARGET)

chaos: setup ## faults at random while builds run: FAULTS=200, SEED=…, ONLY=name, ARENAS=2
	@source tests/tools/env.sh
	guests $(firstword $(GUESTS))
	export DVN_CHAOS_FAULTS="$(or $(FAULTS),200)" DVN_CHAOS_SEED="$(SEED)" DVN_CHAOS_ONLY="$(ONLY)" DVN_CHAOS_ARENAS="$(or $(ARENAS),2)"
	cargo test --locked --test chaos -- --nocapture

lint: checks locks check-darwin check-names ## formatting, clippy for Linux and macOS, rustdoc, shellcheck, Apple's names
	@source tests/tools/env.sh
	with_swift
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	# In this tree's own target directory, where the dependencies are checked already; libFuzzer need not be compiled.
	CUSTOM_LIBFUZZER_PATH=/unused/libfuzzer.a RUSTC_WRAPPER=$$PWD/fuzz/instrument.sh CARGO_TARGET_DIR="$${CARGO_TARGET_DIR:-target}" \
	  cargo clippy --manifest-path fuzz/Cargo.toml --all-targets --no-deps --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --locked --quiet
	files() { git ls-files --cached --others --exclude-standard '*.sh'; git grep --untracked -lE '^#!.*[/ ](ba)?sh$$'; }
	mapfile -t scripts < <(files | sort -u)
	shellcheck --external-sources "$${scripts[@]}"

# First, because everything after it takes minutes.
locks: checks
	@source tests/tools/env.sh
	for manifest in Cargo.toml fuzz/Cargo.toml; do
	  cargo metadata --locked --format-version 1 --manifest-path $$manifest >/dev/null || {
	    echo "the lock file beside $$manifest is out of date: cargo update --workspace --offline --manifest-path $$manifest" >&2
	    exit 1
	  }
	done

check-darwin: checks ## clippy as for a Mac, tests included
	@tests/tools/darwin/check.sh

check-names: checks ## the Swift code's names against Apple's
	@source tests/tools/env.sh
	with_swift
	cargo test --workspace --locked --quiet --test names

link-darwin: setup ## link the Rust half for a Mac and check the result; minutes at first
	@tests/tools/darwin/link.sh

sign: ## on a Mac: the release program, signed with its entitlements
	@tests/tools/darwin/sign.sh

check-nix: checks ## the Nix half: files, module, its output, its reference
	@source tests/tools/env.sh
	tests/nix/check.sh

check-nixos: checks ## the NixOS guest as a whole, with DVN_NIXPKGS=… (docs/nix-checks.md)
	@source tests/tools/env.sh
	tests/nix/nixos.sh

check-guests: setup ## boot the test guest in the shapes of the other guests; BOOTS=50: one of them over and over
	@source tests/tools/env.sh
	guests $(shell uname -m)
	DVN_TEST_BUNDLE_systemd=$$(tests/guest/variants.sh systemd)
	export DVN_TEST_BUNDLE_systemd
	if [ -n "$(BOOTS)" ]; then
	  export DVN_TEST_BOOTS="$(BOOTS)" DVN_TEST_CONSOLES="$$PWD/target/consoles"
	  rm -rf "$$DVN_TEST_CONSOLES"
	  exec cargo test --locked --test e2e -- --nocapture systemd::every_stop
	fi
	check() { DVN_TEST_BUNDLE=$$(tests/guest/variants.sh $$1) cargo test --locked --test e2e -- --test-threads 2 "$${@:2}"; }
	check service demand:: doors:: store::trouble
	check systemd demand:: doors:: store::trouble
	check packed demand:: doors:: store::trouble

fmt: checks ## format the code, Rust and Nix
	@cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	source tests/tools/env.sh
	nixfmt $$(git ls-files --cached --others --exclude-standard '*.nix')

deny: ## licences and advisories of all dependencies; needs cargo-deny
	@cargo deny --locked check

book: ## the book of docs/, in target/book
	@"$$(tests/tools/mdbook.sh)" build docs

references: ## the pages of docs/ that are made from the program
	@cargo run --quiet --locked --features references --bin references -- docs docs

guest: setup ## the test guests' bundles; prints their paths
	@source tests/tools/env.sh
	for arch in $(GUESTS); do tests/guest/build.sh --arch "$$arch"; done

setup: ## install what the other targets need
	@tests/tools/setup.sh

checks: ## the same for linters: Swift, too
	@tests/tools/setup.sh checks

tests-setup: ## the same for tests: old and new versions of Nix, too
	@tests/tools/setup.sh tests

clean: ## delete the build results of this tree; the cache stays
	@cargo clean --quiet
	rm -f bench.json
