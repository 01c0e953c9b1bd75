# The two to know: `make demo` and `make test`. They install what they need (see tools/setup.sh).
# Guests to build for tests and demo; the host's own comes first.
GUESTS ?= $(shell uname -m) $(filter-out $(shell uname -m),x86_64 aarch64)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo test bench lint fmt deny guest setup clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: setup ## watch a build start a VM, run in it, and the VM stop
	@source tools/env.sh
	guests $(firstword $(GUESTS))
	tools/demo.sh

test: setup ## everything but the benchmarks
	@source tools/env.sh
	guests $(GUESTS)
	cargo test --workspace --locked --no-fail-fast

bench: setup ## the figures of docs/ARCHITECTURE.md, as a table and in bench.json
	@source tools/env.sh
	guests $(firstword $(GUESTS))
	cargo bench --locked --bench spine

lint: setup ## formatting, clippy, rustdoc, shellcheck
	@cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --locked --quiet
	files() { git ls-files --cached --others --exclude-standard '*.sh'; git grep --untracked -lE '^#!.*[/ ](ba)?sh$$'; }
	mapfile -t scripts < <(files | sort -u)
	shellcheck --external-sources "$${scripts[@]}"

fmt: setup ## format the Rust code
	@cargo fmt --all

deny: ## licences and advisories of all dependencies; needs cargo-deny
	@cargo deny --locked check

guest: setup ## the test guests' bundles; prints their paths
	@source tools/env.sh
	for arch in $(GUESTS); do tests/guest/build.sh --arch "$$arch"; done

setup: ## install what the others need
	@tools/setup.sh

clean: ## what was built in this tree; the cache stays
	@cargo clean --quiet
	rm -f bench.json
