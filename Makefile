# The verbs of this repository; bare `make` lists them. CI runs `make test`.
#
# Every verb installs what it lacks first (scripts/setup.sh) and touches neither network nor apt when nothing is missing.
# Longer steps live in scripts/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all check sim museum bench

# A rustup that setup.sh has just installed is not on the PATH of the shell that called us; mkfs and friends often are not either.
export PATH := $(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH):/usr/sbin:/sbin

SEEDS ?= 1000

help: ## list the verbs
	@echo "make VERB, where VERB is"
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## three hosts on this machine, a volume that moves while it is written; ends with `demo: ok`
	@scripts/setup.sh rust demo
	@source scripts/toolchain.sh; cargo build --release --workspace --bins
	@scripts/demo.sh

test: ## everything this machine can check: format, lints, licences, docs, tests, simulator, demo
	@scripts/setup.sh rust tests demo deny
	@scripts/test.sh

test-all: ## the same, and every case of MARS's forced switch instead of a sample
	@scripts/setup.sh rust tests demo deny
	@POOLD_TESTS=all scripts/test.sh

check: ## format, lints, licences and documentation, without running tests
	@scripts/setup.sh rust deny
	@scripts/check.sh

sim: ## the simulator: SEEDS=1000 clusters, each with faults of its own
	@scripts/setup.sh rust
	@source scripts/toolchain.sh; cargo run --release -p sim -- --seeds $(SEEDS)

museum: ## published bugs of others, re-created in our engine: the simulator must find each
	@scripts/setup.sh rust
	@source scripts/toolchain.sh; cargo run --release -p sim --features museum -- museum

bench: ## the NBD door against qemu's, alternating, as ratios, into docs/benchmarks.md
	@scripts/setup.sh rust tests
	@source scripts/toolchain.sh; cargo build --release --workspace --bins; cargo run --release -p bench --bin bench -- --page docs/benchmarks.md
