# make demo | test | check | bench | e2e. Each sets everything up by itself; see infra/setup.sh.
PYTHON ?= python3
export PYTHON
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false
# Own code too is compiled once, not in each process of Ray and of pytest.
unexport PYTHONDONTWRITEBYTECODE
BIN = .venv/bin

.PHONY: demo test unit check bench e2e setup lock sbom gpu gpu-bundle

demo: setup
	@$(BIN)/emoji-ldm demo

# Quick tests on all cores, then those that need the machine to themselves.
test: setup
	@status=0; $(BIN)/python -m pytest $(QUICK) -n auto --dist loadfile || status=1; \
	$(BIN)/python -m pytest $(foreach folder,$(QUICK),--ignore=$(folder)) || status=1; exit $$status

unit: setup
	@$(BIN)/python -m pytest tests/unit -m "not slow and not long" -n auto --dist loadfile

QUICK = tests/unit tests/docs tests/manifests tests/kubernetes tests/infra tests/browser

# On the cluster that KUBECONFIG names: installs overlay dev, or E2E_OVERLAY, and runs jobs in it.
e2e: setup
	@E2E=1 $(BIN)/python -m pytest tests/e2e -rs -s

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup
	@$(BIN)/python -m tests.bench --all

setup:
	@infra/setup.sh

lock: setup
	@$(BIN)/uv pip compile pyproject.toml --quiet --extra all --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock

# CycloneDX bills of materials of the images' Python packages, into dist/.
sbom: setup
	@mkdir -p dist
	@$(BIN)/python infra/docker/subset.py pyproject.toml requirements.lock crawl serve | $(SBOM) -o dist/emoji-ldm-cpu.cdx.json
	@$(BIN)/python infra/docker/subset.py pyproject.toml requirements.lock crawl models serve evaluate demo | $(SBOM) -o dist/emoji-ldm-gpu.cdx.json
	@ls -l dist/*.cdx.json

SBOM = PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements - --pyproject pyproject.toml --output-reproducible --spec-version 1.6

# Tests, benchmarks and the starter's training on this machine's GPU, going on where the last call stopped: docs/gpu.md.
gpu: setup
	@$(BIN)/python -m infra.gpu run

# The same for a machine without network, as one file.
gpu-bundle: setup
	@$(BIN)/python -m infra.gpu bundle dist/emoji-ldm-gpu.pyz --data $(or $(STARTER_DATA),data/starter)
