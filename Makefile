# make run    a gardend to try out, on 127.0.0.1:7777 until Ctrl-C
# make test   everything, with what it needs
# make lint   formatting, clippy, dependencies, generated files
# make bench  what a Garden client waits for, beside the bare containerd's own cost
# make bench-kube  what the mirrors of 500 nodes cost an API server, and what its freezing costs a Garden client
# make soak   the kills of tests/faults a thousand times over
# make macos  what compiles for macOS does so, without a Mac
# make image  gardend as a container image, build/gardend-image.tar
# make crds   the custom resource definitions, printed anew into crds/
# make docs   what is generated from options and values: docs/configuration.md, the chart's README and schemas
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Outside the sources, so that they are kept when these go.
export GARDEND_CACHE ?= $(HOME)/.cache/gardend
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# Where this folder exists, the Garden client is taken from it instead of the module proxy.
GARDEN_CLIENT ?= ../shared/garden-client
# Where `make run` serves.
LISTEN ?= 127.0.0.1:7777
# What `make image` names its image.
IMAGE ?= localhost/gardend:dev
# Pairs of a containerd and a runtime: Debian's 1.6 and the pinned 2.x. The first gets every Go test.
PAIRS ?= pinned:runc debian:crun debian:runc pinned:crun

# Making containers needs root; building does not.
ifneq ($(shell id -u),0)
SUDO := sudo -E
endif
# Each test program runs as root, in a network of its own.
CARGO_TEST := cargo --config "target.'cfg(all())'.runner = ['$(CURDIR)/scripts/in-namespace.sh']" test --locked

.PHONY: run build test test-rust test-kube test-chart test-image test-cluster test-go test-v2 lint macos bench bench-kube soak image crds docs setup tools FORCE
.DEFAULT_GOAL := build

build:
	cargo build --locked --release --bin gardend

run:
	@scripts/setup.sh run
	cargo build --locked --release --bin gardend
	@$(SUDO) env LISTEN=$(LISTEN) GARDEND_BIN=$(TARGET)/release/gardend scripts/run.sh

setup:
	@scripts/setup.sh test

tools: setup
	@scripts/build-tools.sh >/dev/null

# One after the other: what one leaves behind is counted, and the machine has to be its own.
test: test-rust test-kube test-chart test-image test-cluster test-go test-v2

# Everything in Rust, the faults (tests/faults/) included; some of it makes containers.
test-rust: tools
	GARDEND_CONTAINERD_BINARY=$(GARDEND_CACHE)/tools/containerd $(CARGO_TEST) --workspace --no-fail-fast

# Custom resources and their mirror, on a real API server.
test-kube: setup
	scripts/test-kube.sh

# gardend in a pod, installed by helm on a real cluster of one node.
test-cluster: tools image go.work
	scripts/test-cluster.sh build/gardend-image.tar

# What the chart makes of its values, and what an API server says of it.
test-chart: setup
	scripts/test-chart.sh

# The image: what is in it, and that it is the same whoever makes it.
test-image: setup build
	scripts/test-image.sh "$(TARGET)/release/gardend"

test-go: tools go.work
	cargo build --locked --bin gardend
	scripts/test-go.sh "$(TARGET)/debug/gardend" $(PAIRS)

# On a kernel with cgroup v2 alone and file systems with quotas.
test-v2: tools go.work
	cargo build --locked --bin gardend
	scripts/test-v2.sh "$(TARGET)/debug/gardend"

# Ignored by git. Where the client's folder is not there, go takes the client from the module proxy, as go.mod says.
go.work: FORCE
	@rm -f go.work go.work.sum
	@if [ -f "$(GARDEN_CLIENT)/go.mod" ]; then \
	  printf 'go 1.26.6\n\nuse (\n\t./bench\n\t./tests/go\n)\n\nreplace code.cloudfoundry.org/garden => %s\n' \
	    "$$(realpath "$(GARDEN_CLIENT)")" >go.work; \
	fi

lint: setup go.work
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --test kube --test cluster -- -D warnings
	scripts/check-dependencies.sh
	scripts/check-go.sh
	scripts/generate-docs.sh --check
	for script in scripts/*.sh tests/kube/*.sh tests/kube/tools/*.sh tests/cluster/*.sh .ci/run; do bash -n "$$script"; done

# Beside `make lint`, since it takes minutes where nothing is compiled yet.
macos:
	scripts/check-macos.sh

image: setup build
	scripts/image.sh "$(TARGET)/release/gardend" $(IMAGE)

bench: tools go.work
	cargo bench --locked --quiet --package gardend-controller --bench plan
	cargo bench --locked --quiet --package garden-init --bench wire
	cargo build --locked --release --bin gardend
	$(SUDO) env GARDEND_BIN=$(TARGET)/release/gardend scripts/bench.sh

# Minutes, on a machine that does nothing else.
bench-kube: tools
	GARDEND_TEST_NODES=500 GARDEND_TEST_PROFILE=release scripts/test-kube.sh --nocapture mirrors_of_many_nodes
	GARDEND_TEST_CONTAINERS=containerd GARDEND_CONTAINERD_BINARY=$(GARDEND_CACHE)/tools/containerd \
	  GARDEND_TEST_PROFILE=release scripts/test-kube.sh --nocapture creates_and_runs

soak: tools
	GARDEND_CONTAINERD_BINARY=$(GARDEND_CACHE)/tools/containerd GARDEND_TEST_KILLS=1000 \
	  $(CARGO_TEST) --test faults -- --nocapture many_kills

crds:
	cargo run --locked --quiet --package gardend-crds

docs:
	scripts/generate-docs.sh

FORCE:
