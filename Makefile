# Everything a person needs is a target here; `make help` lists them. Scripts are in resources/scripts.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

PREFIX ?= /usr/local
DESTDIR ?=
GUESTS ?= build/guests
ARCH ?= x86_64
SCRIPTS := resources/scripts
# Cargo's profile of the binary; dev builds much faster, and what it translates runs as fast.
PROFILE ?= release
RHEA := $(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/rhea

.PHONY: build static install-static run test check cross-check bench fuzz boot-tests user-tests golden-bless install clean help deps guests block-tests

build: deps ## build the binary (PROFILE=release)
	cargo build --profile $(PROFILE) --package rhea

static: deps ## build user mode alone as a binary that needs no shared library (rhea-static)
	cargo rustc --profile $(PROFILE) --package rhea --bin rhea-static --features static -- -C target-feature=+crt-static

run: build guests ## boot Debian's kernel to a shell on this terminal (Ctrl-A x leaves; ARCH=x86_64 or riscv64)
	@$(SCRIPTS)/run.sh $(RHEA) $(GUESTS) $(ARCH)

test: ## all checks and tests: lints, licences, unit and whole-system tests, other hosts
	$(SCRIPTS)/test.sh

check: deps ## formatting, clippy with warnings as errors, licences
	$(SCRIPTS)/check.sh

cross-check: deps ## clippy for aarch64 Linux, aarch64 macOS and x86_64 Windows
	$(SCRIPTS)/cross-check.sh

boot-tests: build guests ## the long whole-system tests
	$(SCRIPTS)/deps.sh test pc net libvirt
	$(SCRIPTS)/guests.sh $(GUESTS) userland drivers system net
	cargo test --package rhea_tests --features long --test long --test cpus_long --test firmware_long --test libvirt --test net_long --test net_guests --test drivers --test system -- --test-threads=1

user-tests: build static ## the long tests of user mode: Debian's programs of three architectures, storms, random system calls
	$(SCRIPTS)/deps.sh test
	$(SCRIPTS)/guests.sh $(GUESTS) suites
	cargo test --package rhea_tests --features long --test user_suites -- --test-threads=1

block-tests: deps ## the long tests of disk images: models of millions of steps, the power cut everywhere
	$(SCRIPTS)/deps.sh test
	cargo test --release --package block_formats --package block_export --features block_formats/long,block_export/long

bench: build guests ## tables of boot cost, start-up, idle and translation speed against QEMU 10
	$(SCRIPTS)/deps.sh bench pc
	cargo build --quiet --profile $(PROFILE) --package rhea_tests --bins
	$(dir $(RHEA))bench $(BENCH)
	$(if $(filter-out net,$(BENCH)),,cargo bench --quiet --package net_user --bench throughput)

fuzz: deps ## longer runs of the random tests (FUZZ_CASES, default 20000)
	$(SCRIPTS)/deps.sh test pc
	PROPTEST_CASES=$(or $(FUZZ_CASES),20000) RHEA_FUZZ=$$(($(or $(FUZZ_CASES),20000) / 1000 + 1)) RHEA_FUZZ_CASES=$(or $(FUZZ_CASES),20000) cargo test --release --workspace fuzz

golden-bless: deps ## accept the present output as the golden text
	RHEA_BLESS=1 cargo test --workspace golden
	git --no-pager diff --stat

install: build ## install under PREFIX (default /usr/local); NAMES='qemu-system-riscv64 ...' links it under these too
	$(SCRIPTS)/install.sh $(RHEA) '$(DESTDIR)$(PREFIX)' $(NAMES)

install-static: static ## install that binary beside rhea; 'rhea binfmt install' registers it then, for foreign roots
	install -D -m 755 $(RHEA)-static '$(DESTDIR)$(PREFIX)/bin/rhea-static'

deps: # what a build needs from Debian
	@$(SCRIPTS)/deps.sh build

guests: deps # real guests, from Debian packages
	@$(SCRIPTS)/guests.sh $(GUESTS)

clean: ## remove what was built and fetched
	cargo clean
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
