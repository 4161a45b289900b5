# Every target sets up what it needs: Debian packages, the Python environment, kernels, the image.
# What is expensive is kept outside the tree, in $MOTE_CACHE or ~/.cache/mote.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup venv tool parts image sbom reproducible port run demo check-config test unit end-to-end \
    release-check buildroot-tools lint bench clean

PORT ?= 8080
ARGS ?=
FILE ?= config/mote.toml
# Repetitions of the longer benchmarks.
RUNS ?= 3

CACHE := $(or $(MOTE_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME)/mote),$(HOME)/.cache/mote)
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
IMAGE := $(TARGET_DIR)/x86_64-unknown-linux-gnu/debug/image
# Debian's own Python, whatever `python3` is on this machine.
PYTHON := /usr/bin/python3
REQUIREMENTS := tests/requirements.txt
VENV := $(CACHE)/venv-$(shell cat $(REQUIREMENTS) Makefile | sha256sum | cut -c1-16)

# The tests start the image through the tool that was built here, and their children do not join our jobs.
export MOTE_IMAGE_TOOL := $(IMAGE)
export CARGO_TERM_COLOR ?= auto
unexport MAKEFLAGS MFLAGS

help:
	@echo "make demo    boot the image, deploy two functions, call them cold, from snapshots, warm, after a power cut"
	@echo "make run     boot the image in QEMU and stay; Ctrl-C powers it off   (PORT=$(PORT), ARGS='--mem 2048 --fresh')"
	@echo "make image   make what is passed on in dist/: a disk for machines, its checksums, what it is made of"
	@echo "make sbom    list in dist/ what the image is made of, with all licences"
	@echo "make reproducible   build twice elsewhere, and see that every byte is the same"
	@echo "make test    all tests: by crate, then end to end in QEMU   (make unit, make end-to-end: one of the two)"
	@echo "make release-check   buildroot makes the image, which boots   (BUILDROOT_DIR=a checkout of buildroot)"
	@echo "make check-config   what is wrong with a mote.toml, with line and column   (FILE=$(FILE))"
	@echo "make lint    formatting, clippy, Python syntax"
	@echo "make bench   the performance claims"
	@echo "make setup   install the Debian packages that are missing"
	@echo "make clean   remove what was built here; the cache stays: $(CACHE)"

setup:
	@[ "$(MOTE_SETUP)" = no ] || sh image/setup.sh

# In a folder named by the list of packages: another list is another folder. A lock, because two runs may meet.
venv: setup
	@[ -e "$(VENV)/complete" ] || { \
	    echo "  making the Python environment of the tests …"; mkdir -p "$(CACHE)"; \
	    flock "$(CACHE)/venv.lock" sh -c 'set -e; [ ! -e "$(VENV)/complete" ] || exit 0; rm -rf "$(VENV)"; \
	    $(PYTHON) -m venv "$(VENV)"; \
	    "$(VENV)/bin/python" -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS); \
	    touch "$(VENV)/complete"'; }

# Silent once it was built: the first time, cargo's own lines show that something happens.
tool: setup
	@cargo build $(if $(wildcard $(IMAGE)),--quiet) -p image

parts: tool
	@"$(IMAGE)" build

# All that is passed on. Compressed again only if the disk is another.
image: parts sbom
	@"$(IMAGE)" disk
	@cd dist && { sha256sum --check --status SHA256SUMS 2>/dev/null || { \
	    zstd -10 -T0 --quiet --force mote-x86_64.img && \
	    sha256sum mote-x86_64.img mote-x86_64.img.zst mote-x86_64.cdx.json > SHA256SUMS; }; }

# What the image is made of and under which licences; fails when something may not be passed on.
sbom: tool
	@"$(IMAGE)" sbom

# Whoever has the sources can see that a file is what it says.
reproducible: setup
	@sh image/reproducible.sh

# Before the build, which may take minutes.
port:
	@[ "$(PORT)" -ge 1 ] 2>/dev/null && [ "$(PORT)" -le 65535 ] || { \
	    echo "PORT=$(PORT) is no port: give a number from 1 to 65535" >&2; exit 1; }

run: port parts
	@"$(IMAGE)" run --port $(PORT) $(ARGS)

demo: parts venv
	@"$(VENV)/bin/python" tests/demo.py

check-config: setup
	@cargo run --quiet -p hostd -- config check "$(FILE)"

test: unit end-to-end

unit: setup
	cargo test --workspace --no-fail-fast

end-to-end: image venv buildroot-tools
	"$(VENV)/bin/python" -m pytest tests/

# Beside `make test`: docs/BUILDROOT.md.
release-check: image venv buildroot-tools
	@[ -n "$(BUILDROOT_DIR)" ] || echo "skipped: BUILDROOT_DIR names no checkout of buildroot"
	[ -z "$(BUILDROOT_DIR)" ] || MOTE_RELEASE_CHECK=yes "$(VENV)/bin/python" -m pytest tests/test_buildroot.py

buildroot-tools: setup
	@[ -z "$(BUILDROOT_DIR)" ] || [ "$(MOTE_SETUP)" = no ] || sh image/setup.sh buildroot/offline/packages.list

lint: setup
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	PYTHONPYCACHEPREFIX=$(TARGET_DIR)/pycache $(PYTHON) -W error -m compileall -q tests examples bench/functions
	for script in image/setup.sh image/reproducible.sh buildroot/offline/prepare.sh buildroot/board/mote/post-image.sh; do \
	    sh -n $$script || exit; done
	bash -n .ci/run

# Each prints its table and leaves one line of JSON in results/; figures and tables of all go into docs/. One alone:
# cargo run --release -p bench -- NAME. Those that restore every function many times take most of an hour.
bench: parts
	cargo build --quiet --release -p bench -p mote-monitor
	mkdir -p results
	set -e; for name in monitor paging steps start; do \
	    cargo run --quiet --release -p bench -- $$name --json results/$$name.json $(ARGS); done
	set -e; for disk in nvme network; do \
	    cargo run --quiet --release -p bench -- restore --runs $(RUNS) --disk $$disk \
	        --json results/restore-$$disk.json; done
	set -e; for name in inputs burst load network sched; do \
	    cargo run --quiet --release -p bench -- $$name --runs $(RUNS) --json results/$$name.json; done
	cargo run --quiet --release -p bench -- plots

clean:
	rm -rf dist
	cargo clean
