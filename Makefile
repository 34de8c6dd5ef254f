# The two commands of the README are `make demo` and `make test`; the rest are their parts.
# CARGO_TARGET_DIR is respected; CI points it outside the checkout.
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
LATEEN := $(TARGET_DIR)/release/lateen

.PHONY: demo build test lint fmt bench

demo: build
	@LATEEN=$(LATEEN) ./examples/demo.sh

build:
	$(CARGO) build --release --package lateen

# Formatting, lints, layering; then unit and end-to-end tests: whole meshes in network namespaces, on both data planes.
test: lint
	$(CARGO) test --workspace --no-fail-fast

lint:
	$(CARGO) fmt --all --check
	$(CARGO) xtask tidy
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

bench:
	$(CARGO) bench --workspace
