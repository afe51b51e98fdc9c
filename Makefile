# Everything from a clean clone with nothing but Python 3.10 or later: each target makes what it needs.
PYTHON ?= python3
PIP = .venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test test-types test-slow test-browser test-ray test-clients lint types docs wheel bench constraints clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	@touch $@

.venv/test: .venv/core
	$(PIP) --editable ".[test]"
	@touch $@

.venv/docs: .venv/core
	$(PIP) --editable ".[docs,lab]"
	@touch $@

demo: .venv/core ## draw images with the embedded model into out/
	PATH="$(CURDIR)/.venv/bin:$$PATH" .ci/demo

# bytecode is written even if the caller's environment forbids it: compiling is a third of a cold start
TEST = PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest --numprocesses auto --dist worksteal

QUICK = -m "not slow and not browser and not ray and not clients"

test: .venv/test ## run the tests
	$(TEST) $(QUICK)

# every call is checked against its annotations, shapes included, which doubles the time
test-types: .venv/test ## run the tests with every call's types checked
	$(TEST) $(QUICK) --jaxtyping-packages=sigmafield,typed.checked

test-slow: .venv/test ## run the slow tests as well
	$(TEST) -m "not browser and not ray and not clients"

test-browser: .venv/test ## run the tests of the pages, which need Chromium (Debian: apt-get install chromium)
	$(TEST) -m browser

.venv/ray: .venv/test
	$(PIP) --editable ".[ray]"
	@touch $@

test-ray: .venv/ray ## run the tests on a local Ray cluster
	$(TEST) --numprocesses 1 -m ray

test-clients: .venv/test ## run other programs' clients of ComfyUI against the server, each installed in its own environment
	$(TEST) --numprocesses 1 -m clients

lint: .venv/test ## check style
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/test .venv/docs .venv/ray ## check types
	.venv/bin/pyright

wheel: ## build the wheel, and try it in an empty environment
	PYTHON=$(PYTHON) .ci/wheel

docs: .venv/docs ## build the documentation into site/
	.venv/bin/mkdocs build --strict --quiet

bench: .venv/test ## measure, and print tables
	.venv/bin/python benchmarks/imports.py
	.venv/bin/python benchmarks/brownian.py
	.venv/bin/python benchmarks/engine.py
	.venv/bin/python benchmarks/distance.py
	.venv/bin/python benchmarks/guidance.py
	.venv/bin/python benchmarks/memory.py
	.venv/bin/python benchmarks/quantised.py
	.venv/bin/python benchmarks/serving.py
	.venv/bin/python benchmarks/load.py

constraints: .venv/test ## choose the pinned versions again
	.venv/bin/pip install --quiet uv
	echo "torch==2.13.0" | .venv/bin/uv pip compile --quiet --universal --python-version 3.10 --all-extras \
		--constraint - --no-annotate --no-header pyproject.toml | grep -vE '^(nvidia-|triton|cuda-)' > constraints.new
	(echo "# The versions that tests and demo run with; rebuilt by \`make constraints\`." && cat constraints.new) > constraints.txt
	rm constraints.new

clean: ## remove what was made
	rm -rf .venv out site dist
