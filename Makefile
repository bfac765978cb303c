# Everything a user or CI does, by name. `make help` describes it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

-include .env
export

# Where the laptop's tables live, and the pipeline that `ingest` and `run` execute.
LAKEHOUSE_LOCAL ?= .lakehouse
FUZZ_TARGET     ?= ndjson
FUZZ_SECONDS    ?= 60
PIPELINE        ?= deploy/shop.yaml
INTERVAL        ?= 2024-03-01
QUERY           ?= select * from gold.daily_sales order by 1, 2 limit 20
RUN             ?=

# How Rust is compiled: `dev` is built soonest, `release` runs fastest and is what images are made of.
PROFILE         ?= dev
LAKEHOUSE = $(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/lakehouse
CLUSTER   := tests/cluster/cluster

.PHONY: help setup build images up down demo ingest run logs status sql test soak bench fuzz lint audit sbom fmt crds clean

help: ## describe the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what the tests need (Debian packages need root; the script says which and why)
	tests/setup

# --workspace everywhere: `-p` would resolve other features and compile the dependency tree a second time.
build: ## build every binary; PROFILE=release for real amounts of data
	cargo build --profile $(PROFILE) --workspace --bins --locked

images: ## build the images that ship and check their sizes
	$(CLUSTER) images --no-load
	$(CLUSTER) images --no-load ingest-chromium
	$(CLUSTER) sizes

up: ## bring the whole platform up on kind: cluster, images, charts
	$(CLUSTER) up
	@echo; echo "It is up. Look further:"
	@echo "  export KUBECONFIG=\$$(tests/cluster/cluster kubeconfig)"
	@echo "  kubectl apply -n lakehouse -f deploy/lakehouse.yaml -f deploy/pulse.yaml && kubectl get lhp,lhr -n lakehouse -w"
	@echo "  Airflow: http://127.0.0.1:8080 (docs/airflow.md)    MinIO: http://127.0.0.1:9001"

down: ## delete the kind cluster with everything in it
	$(CLUSTER) delete

demo: ## run the shop pipeline for five days on this machine, no cluster needed, and show a gold table
	@cargo build --profile $(PROFILE) --workspace --locked --bin lakehouse
	@$(LAKEHOUSE) run -f deploy/shop.yaml --local $(LAKEHOUSE_LOCAL) --from 2024-03-01 --to 2024-03-05
	@echo; echo "gold.funnel: how many sessions got from view to cart to purchase, per day"
	@$(LAKEHOUSE) sql "select * from gold.funnel order by 1" --local $(LAKEHOUSE_LOCAL)
	@echo; echo "Look further:"
	@echo "  make sql QUERY='select * from gold.daily_sales order by 1, 2 limit 10'"
	@echo "  make sql QUERY='select rule, count(*) from quarantine.events group by 1'"
	@echo "  make status    the runs        make logs    the reports of the last run"
	@echo "  $(LAKEHOUSE) --help"

ingest: build ## run only the ingest stage of PIPELINE for INTERVAL
	@$(LAKEHOUSE) run -f $(PIPELINE) --local $(LAKEHOUSE_LOCAL) --interval $(INTERVAL) --stage ingest

run: build ## run all stages of PIPELINE for INTERVAL
	@$(LAKEHOUSE) run -f $(PIPELINE) --local $(LAKEHOUSE_LOCAL) --interval $(INTERVAL)

logs: ## the stage reports of RUN, default the last one
	@$(LAKEHOUSE) report $(RUN) --local $(LAKEHOUSE_LOCAL)

status: ## the runs on this machine
	@$(LAKEHOUSE) status --local $(LAKEHOUSE_LOCAL)

sql: ## QUERY over the tables on this machine
	@$(LAKEHOUSE) sql "$(QUERY)" --local $(LAKEHOUSE_LOCAL)

test: ## install what the tests need and run all of them, the real-cluster ones included
	tests/all

bench: ## time the silver stage against DuckDB and Polars, interleaved; hold the operator to its limits with 10,000 runs
	bench/run

soak: build ## run the long forms of tests: simulation, fuzz targets (FUZZ_SECONDS each), a year of days, faults of the operator
	@tests/soak

fuzz: ## let libFuzzer look for bytes that break a promise of FUZZ_TARGET (tests/fuzz/seeds) for FUZZ_SECONDS
	@tests/fuzz/run $(FUZZ_TARGET) $(FUZZ_SECONDS)

lint: ## formatting, clippy, ruff, helm lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	tests/run --lint

audit: ## check licences, sources and known vulnerabilities of the Rust dependencies (deny.toml); needs cargo-deny and the network
	@cargo deny --version >/dev/null 2>&1 || { echo "error: cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --workspace --locked check

sbom: ## write target/sbom.cdx.json: every package that is compiled in, as CycloneDX
	@tests/sbom target/sbom.cdx.json

fmt: ## format Rust and Python
	cargo fmt --all
	tests/run --format

crds: ## write the CRD YAML from the Rust types
	cargo build --profile $(PROFILE) --workspace --locked --bin lakehouse-api
	$(LAKEHOUSE)-api

clean: ## remove build output and the laptop's tables; caches outside the tree stay
	rm -rf target $(LAKEHOUSE_LOCAL)
