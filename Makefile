# make help lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CACHE_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/capi-ipam-in-cluster

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY_ROOT := $(CACHE_DIR)/tools/cargo-deny-$(CARGO_DENY_VERSION)
CARGO_DENY := $(CARGO_DENY_ROOT)/bin/cargo-deny

HELM_VERSION := 4.2.4
HELM_BIN := $(CACHE_DIR)/tools/helm-$(HELM_VERSION)/bin
HELM := $(HELM_BIN)/helm
CHART := helm/capi-ipam-in-cluster

# Only from make's own command line: a KUBECONFIG that happens to be exported must not send the demo to that cluster.
ifeq ($(origin KUBECONFIG),command line)
DEMO_FLAGS += --kubeconfig "$(KUBECONFIG)"
endif
ifneq ($(filter-out 0,$(KEEP)),)
DEMO_FLAGS += --keep
endif

.PHONY: help
help: ## List the targets
	@printf 'Usage: make TARGET\n\n'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Show the provider at work on a control plane of its own (KEEP=1 leaves it running; KUBECONFIG=file uses that cluster)
	@$(CARGO) build --locked --workspace --bin manager --bin demo
	@"$(TARGET_DIR)/debug/demo" $(DEMO_FLAGS)

.PHONY: build
build: ## Build the manager and the programs around it
	$(CARGO) build --locked --workspace --bins

.PHONY: test
test: build ## Run all tests, those against a real control plane too
	$(CARGO) test --locked --workspace

.PHONY: unit
unit: ## Run the tests that need no control plane
	$(CARGO) test --locked --package capi-ipam-in-cluster

.PHONY: e2e
e2e: build ## Run the tests against a real control plane
	$(CARGO) test --locked --package e2e

.PHONY: model
model: ## Search the models for long (MODEL_SECONDS for each walk, MODEL_SEED for other ones)
	MODEL_LARGE=1 $(CARGO) test --locked --profile model --package capi-ipam-in-cluster --test model -- --nocapture --test-threads 1

.PHONY: check
check: fmt clippy doc deny ## Run everything that needs no tests: fmt, clippy, doc, deny

.PHONY: fmt
fmt: ## Check the formatting
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy: ## Lint; warnings are errors
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

.PHONY: doc
doc: ## Build the documentation; warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

.PHONY: deny
deny: $(CARGO_DENY) ## Check the licences, sources and versions of dependencies
	$(CARGO_DENY) --log-level error --locked --workspace check --hide-inclusion-graph bans licenses sources

.PHONY: advisories
advisories: $(CARGO_DENY) ## Check the dependencies for known vulnerabilities (fetches the RustSec database from GitHub)
	$(CARGO_DENY) --locked --workspace check advisories

$(CARGO_DENY):
	$(CARGO) install --locked --quiet cargo-deny --version $(CARGO_DENY_VERSION) --root "$(CARGO_DENY_ROOT)"

.PHONY: helm
helm: $(HELM) ## Lint the chart and render it with each of its value sets (builds helm: once, 5 minutes)
	@for values in $(CHART)/values.yaml $(CHART)/ci/*-values.yaml; do \
		"$(HELM)" lint --strict --quiet $(CHART) --values "$$values"; \
		"$(HELM)" template release $(CHART) --namespace somewhere --values "$$values" >/dev/null; \
		echo "$$values: accepted"; \
	done

.PHONY: chart
chart: build $(HELM) ## Install the chart on a real control plane with helm
	HELM="$(HELM)" $(CARGO) test --locked --package e2e --test chart

.PHONY: move
move: build move-tools ## Move a cluster between two management clusters with clusterctl, there and back
	CLUSTER_API_TOOLS_REQUIRED=1 $(CARGO) test --locked --package e2e --test clusterctl_move -- --test-threads 1

.PHONY: move-tools
move-tools: ## Build clusterctl and Cluster API's own manager into the cache (once, 5 minutes)
	@$(CARGO) build --locked --quiet --workspace --bin control-plane
	@"$(TARGET_DIR)/debug/control-plane" cluster-api

# GOFLAGS of the caller may be for a module of his own.
$(HELM):
	@echo 'building helm $(HELM_VERSION) (once; about 5 minutes on two cores)'
	GOFLAGS= CGO_ENABLED=0 GOBIN="$(HELM_BIN)" go install -p 2 -ldflags "-s -w" helm.sh/helm/v4/cmd/helm@v$(HELM_VERSION)

.PHONY: bench
bench: ## Measure the manager against the limit of the API server
	$(CARGO) build --locked --release --workspace --bin manager --bin bench
	"$(TARGET_DIR)/release/bench" $(BENCH_FLAGS)

.PHONY: faults
faults: build ## Break things under replicas at work, many times, and measure (about 40 minutes)
	"$(TARGET_DIR)/debug/faults" $(FAULTS_FLAGS)

.PHONY: control-plane
control-plane: ## Build kube-apiserver, etcd and kube-controller-manager into the cache
	@$(CARGO) build --locked --quiet --workspace --bin control-plane
	@"$(TARGET_DIR)/debug/control-plane"

.PHONY: crds
crds: ## Generate the CRDs anew
	UPDATE_GENERATED=1 $(CARGO) test --locked --package capi-ipam-in-cluster --test generated
