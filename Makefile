# The two commands of the README are `make demo` and `make test`; the rest are their parts.
# CARGO_TARGET_DIR is respected; CI points it outside the checkout.
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
LATEEN := $(TARGET_DIR)/release/lateen

.PHONY: demo build test conformance lint fmt bench

demo: build
	@LATEEN=$(LATEEN) ./examples/demo.sh

build:
	$(CARGO) build --release --package lateen

# Formatting, lints, layering; then unit and end-to-end tests: whole meshes in network namespaces, on both data planes.
test: lint
	$(CARGO) test --workspace --no-fail-fast

# Istio's own cases, read in place: a line per failing case, a line per suite. SUITE is simulation, crd-validation, authz or all.
DIR ?= ../shared/conformance
SUITE ?= all
conformance: # exits non-zero if a case fails that KNOWN does not list
	$(CARGO) run --quiet --package lateen-testkit --bin conformance -- --dir $(DIR) --suite $(SUITE) $(if $(KNOWN),--known $(KNOWN))

lint:
	$(CARGO) fmt --all --check
	$(CARGO) xtask tidy
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

# All experiments, or one: `make bench NAME=hop`; what there is: `make bench BENCH=--list`; `BENCH="--runs 3 --seconds 2"` to be quick. Results: bench/results/NAME.json.
bench:
	$(CARGO) build --release --package lateen --package lateen-bench
	$(TARGET_DIR)/release/lateen-bench $(NAME) $(BENCH)
