# `make help` lists what there is. Needs make and a Python 3.10 to 3.13; everything else goes into .venv.

SHELL = /bin/bash
VENV = .venv
PY = $(VENV)/bin/python
STAMP = $(VENV)/.complete

PYTEST_OPTIONS =
TEST_PROCESSES = 2
HTTP_PORT = 8000
GRPC_PORT = 8001
METRICS_PORT = 8002
GATEWAY_PORT = 8080
SERVE_OPTIONS =
LOCK_OPTIONS =
LOADTEST_OPTIONS =
PERF_OPTIONS =
IMAGE = flux-triton

# The first Python that can run the model, those for which every package has a wheel before the others (in place of which
# `make setup` tries to fetch one). One that is named is taken: make PYTHON=python3.13
PYTHON ?= $(shell for options in --wheels ""; do for python in python3 python3.12 python3.11 python3.10 python3.13; do \
	$$python tools/triton/interpreter.py $$options >/dev/null 2>&1 && echo $$python && exit; done; done; echo python3)

.DEFAULT_GOAL = help
.PHONY: help setup lock demo serve gateway test test-slow check format bench loadtest perf tiny image clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(STAMP) ## Build .venv with everything in it (every other target does this when needed)

$(STAMP): $(wildcard requirements/*.txt) client/pyproject.toml
	@python=$(PY); "$$python" -m pip --version >/dev/null 2>&1 || python="$(PYTHON)"; \
		"$$python" tools/triton/interpreter.py && \
		"$$python" -m tools.environment $(VENV) $(if $(filter-out file,$(origin PYTHON)),--keep-python)
	@touch $@

lock: ## Write requirements/constraints.txt after a change of a version; LOCK_OPTIONS=--upgrade for the newest of all
	@# Not by way of `setup`, which would install what is changed against what was locked before.
	@test -x $(VENV)/bin/uv || $(MAKE) setup
	cd requirements && UV_PYTHON_DOWNLOADS=never ../$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 \
		--no-annotate --custom-compile-command "make lock" $(LOCK_OPTIONS) dev.txt --output-file constraints.txt
	@# The container has another numpy, and a torch says itself which libraries for GPUs it needs.
	@sed -i -E '/^(numpy|triton|nvidia-.*|cuda-.*)==/d' requirements/constraints.txt

demo: $(STAMP) ## Start Triton, draw a contact sheet of a dozen prompts into out/demo.png, stop
	@exec $(PY) -m tools.demo

serve: $(STAMP) ## Serve in the foreground; HTTP_PORT=8000 GRPC_PORT=8001 METRICS_PORT=8002
	@exec $(PY) -m tools.triton --http-port $(HTTP_PORT) --grpc-port $(GRPC_PORT) --metrics-port $(METRICS_PORT) $(SERVE_OPTIONS)

gateway: $(STAMP) ## OpenAI's Images API and a page for people before a running server; GATEWAY_PORT=8080
	@exec $(VENV)/bin/fluxclient gateway --port $(GATEWAY_PORT) --url grpc://localhost:$(GRPC_PORT)

PYTEST = $(PY) -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## Run the tests, most of those against a real Triton included; PYTEST_OPTIONS="-m 'not server'"
	@exec $(PYTEST) --slow no $(PYTEST_OPTIONS)

test-slow: $(STAMP) ## Run the tests that take longest: what dies and is mended, the load lab on a server, compilation
	@exec $(PYTEST) --slow only $(PYTEST_OPTIONS)

check: $(STAMP) ## Format, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m mypy model_repository/flux/1/model.py
	$(PY) -m mypy model_repository/flux_unary/1/model.py

format: $(STAMP) ## Format all Python and fix what lint can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMP) ## Measure against the peers, and each way to make a step cheaper; writes out/bench.json and bench_matrix.json
	$(PY) -m tools.bench
	$(PY) -m tools.bench.matrix

loadtest: $(STAMP) ## Compare four ways to serve on a server of its own; writes out/loadtest/
	@exec $(PY) -m loadtest --start-server --strategies all --plot --save $(LOADTEST_OPTIONS)

perf: $(STAMP) ## Run NVIDIA's perf_analyzer on a server of its own; writes out/loadtest/perf.json
	@exec $(PY) -m loadtest.perf --start-server $(PERF_OPTIONS)

tiny: $(STAMP) ## Train flux-tiny and its LoRAs again, from the pictures to the evaluation
	$(PY) -m tools.tiny_flux.vae
	$(PY) -m tools.tiny_flux.latents
	$(PY) -m tools.tiny_flux.transformer
	$(PY) -m tools.tiny_flux.export
	$(PY) -m tools.tiny_flux.evaluate
	$(PY) -m tools.tiny_flux.lora
	$(PY) -m tools.tiny_flux.evaluate_loras

image: ## Build the container image of Dockerfile.triton; IMAGE=flux-triton
	docker build -f Dockerfile.triton -t $(IMAGE) .

clean: ## Remove .venv, the assembled Triton and caches; out/ stays
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
