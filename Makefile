# The two commands of the README are `make demo` and `make test`; the rest are their parts.
# CARGO_TARGET_DIR is respected; CI points it outside the checkout.
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
LATEEN := $(TARGET_DIR)/release/lateen

.PHONY: demo build test lint fmt tidy unit e2e bench conformance clean

demo: build
	@LATEEN=$(LATEEN) ./examples/demo.sh

build:
	$(CARGO) build --release --package lateen

test: lint unit e2e

lint:
	$(CARGO) fmt --all --check
	$(CARGO) xtask tidy
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

tidy:
	$(CARGO) xtask tidy

unit:
	$(CARGO) test --workspace

# Whole meshes in network namespaces, on both data planes. Needs root or user namespaces; says so and skips where it has neither.
e2e: build
	LATEEN=$(LATEEN) $(CARGO) test --package lateen --test e2e -- --ignored --test-threads 1
