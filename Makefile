# Only python3 (3.11 or newer) and make are assumed. Everything else lives in .venv, from the lock files.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
URL    ?= http://127.0.0.1:8080

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Whatever the habit of the machine: a start is a quarter shorter, and tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test check audit lock schemathesis hostile fuzz flood chaos conformance conformance-seeds defects bench \
	bench-compare readiness wheel image image-test stack stack-test stack-secrets

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed-runtime ## Serve the embedded vault on 127.0.0.1:8080 (ARGS='--port 9000')
	@exec $(BIN)/cdv serve $(ARGS)

# One more worker than cores: many tests wait. Each has servers of its own, unless one is named in the environment: there, two would empty each other's streams.
WORKERS = $(if $(CDV_TEST_POSTGRES_DSN)$(CDV_TEST_NATS_URL)$(CDV_TEST_S3_ENDPOINT)$(CDV_TEST_VERSIONED_S3_ENDPOINT),,--numprocesses=$$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --maxprocesses=5 --dist=loadfile --no-loadscope-reorder)
test: $(VENV)/.installed-dev ## Run every test on real servers, with coverage (ARGS='-k name -x')
	$(BIN)/pytest --cov --cov-report= $(WORKERS) $(ARGS)
	$(BIN)/coverage report --include='cdv_core/*' --fail-under=95
	$(BIN)/coverage report --fail-under=90

check: $(VENV)/.installed-dev ## Format, lint, types, import boundaries, dead links: before each commit
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/check_links.py

audit: $(VENV)/.installed-dev ## Known vulnerabilities in the lock, unsafe code, secrets in tracked files
	@$(BIN)/python -m tests.audit

schemathesis: $(VENV)/.installed-dev ## Try a fresh server with 2,000 cases made from its OpenAPI document (ARGS='--seed 1')
	@$(BIN)/python -m tests.load.schemathesis_run --max-examples 130 --at-least 2000 -- $(ARGS)

# A development vault's own key, where it is; for another target say how to get its tokens (docs/conformance.md).
ISSUER_KEY = $(or $(CDV_DATA_DIR),.cdv)/issuer-key.json
TOKENS ?= $(if $(wildcard $(ISSUER_KEY)),--issuer-key $(ISSUER_KEY),--token-command '$(BIN)/cdv token --did {did}')
conformance: $(VENV)/.installed-dev ## Judge a running CDV: URL=... TOKENS='--issuer-key FILE' ARGS='--html report.html'
	@$(BIN)/python -m conformance.http.cli run --url $(URL) $(TOKENS) $(ARGS)

conformance-seeds: $(VENV)/.installed-dev ## Judge our own service with 50 seeds; nothing may fail (ARGS='--seeds 5 --profile quick')
	@$(BIN)/python -m tests.conformance.seeds_run $(ARGS)

defects: $(VENV)/.installed-dev ## Plant the defects of docs/defects.md in our service; the suite must report each (ARGS=random-cid)
	@$(BIN)/python -m tests.conformance.defects_run $(ARGS)

hostile: $(VENV)/.installed-dev ## Attack a fresh server with 100,000 hostile requests over raw sockets (ARGS='--seed 2')
	@$(BIN)/python -m tests.load.hostile $(ARGS)

SECONDS_EACH = $(or $(SECONDS),60)
fuzz: $(VENV)/.installed-dev ## Fuzz bodies, cursors, tokens, filenames and schemas with Atheris (SECONDS=60 for each)
	@$(BIN)/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("atheris") is None and "skipped: Atheris has no wheel for this Python or machine")'
	@for each in body cursor jwt filename schema; do echo "== $$each"; \
	  $(BIN)/python -m tests.fuzz.run $$each -max_total_time=$(SECONDS_EACH) -timeout=20 -print_final_stats=1 || exit 1; done

bench: $(VENV)/.installed-dev ## Measure against what the database alone can do (needs wrk; ARGS='--quick', --report FILE, --only create)
	@$(BIN)/python -m tests.load.bench $(ARGS)

bench-compare: $(VENV)/.installed-dev ## Two runs of bench, and what of the difference is noise: A=before.json B=after.json
	@$(BIN)/python -m tests.load.bench.compare $(A) $(B)

flood: $(VENV)/.installed-dev ## Offer a server on Postgres four times what it can serve, and see what it does (needs wrk)
	@$(BIN)/python -m tests.load.flood $(ARGS)

readiness: $(VENV)/.installed-dev ## Prove every item of docs/production-readiness.md, and write that page: half an hour (ARGS=--again)
	@$(BIN)/python -m tests.readiness $(ARGS)

chaos: $(VENV)/.installed-dev ## The long disasters: 50 kills of the service under load, and the like (CDV_TEST_SEED=...)
	$(BIN)/pytest tests/chaos -m 'long or not long' -s $(ARGS)

wheel: $(VENV)/.installed-dev ## Build the wheels of the vault and of the conformance suite into dist/
	$(BIN)/hatchling build --target wheel --directory dist
	cd conformance && ../$(BIN)/hatchling build --target wheel --directory ../dist

IMAGE = creator-data-vault:dev
image: ## Build the service's image with Docker (IMAGE=name:tag)
	docker build --file deploy/Dockerfile --tag $(IMAGE) --build-arg REVISION=$$(git rev-parse HEAD) .

image-test: $(VENV)/.installed-dev ## Try the image that `make image` has built
	CDV_TEST_IMAGE=$(IMAGE) $(BIN)/pytest tests/deploy/test_container_image.py $(ARGS)

stack: stack-secrets ## Run everything in Docker Compose: the vault, its servers, TLS, metrics, traces (ARGS=--detach)
	docker compose --file deploy/compose.yaml up --build $(ARGS)

# Without OPS: Caddy hides /readyz and /metrics, as an edge should. Without EVENT: the broker is in the stack's own network.
STACK_GROUPS = AUTH CID CORS ERR IDEM LIMIT LIST MEDIA REC SCHEMA
stack-test: $(VENV)/.installed-dev ## Judge the vault of a started stack, through Caddy and TLS (ARGS='--profile default')
	@$(BIN)/python -m conformance.http.cli run --url https://vault.localhost:8443 --ca deploy/secrets/ca.pem \
		--issuer-key deploy/secrets/issuer-key.json --issuer https://issuer.localhost:8443 --audience cdv \
		--profile quick $(STACK_GROUPS:%=--only %-) $(ARGS)

stack-secrets: $(VENV)/.installed-runtime
	@$(BIN)/python -m deploy.development_secrets deploy/secrets

# Pins stay as they are unless LOCK_ARGS=--upgrade. The locks hold names, versions and hashes only, for every platform.
COMPILE = $(BIN)/uv pip compile pyproject.toml --no-config --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-strip-extras --no-annotate --no-emit-index-url --no-emit-find-links $(LOCK_ARGS)
lock: $(VENV)/.installed-dev ## Pin the dependencies of pyproject.toml again (LOCK_ARGS=--upgrade for newer ones)
	$(COMPILE) --output-file requirements.lock --group build
	$(COMPILE) --output-file requirements-dev.lock --group build --group dev --constraint requirements.lock
	$(COMPILE) --output-file deploy/requirements.lock --extra aws --extra otel --extra redis --constraint requirements-dev.lock

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# The lock is the whole answer, so pip resolves nothing (--no-deps): a release that came out since changes nothing here.
# The build backend is locked as well (group build), so that installing ourselves fetches nothing that is not in the lock.
$(VENV)/.installed-%: $(BIN)/python pyproject.toml
	@echo "Installing from $(LOCK) into $(VENV), once ..."
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@

$(VENV)/.installed-runtime: LOCK := requirements.lock
$(VENV)/.installed-runtime: requirements.lock
$(VENV)/.installed-dev: LOCK := requirements-dev.lock
$(VENV)/.installed-dev: requirements-dev.lock
