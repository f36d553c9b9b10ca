# Two commands are enough for a newcomer: `make demo` and `make test`. Both install first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_OUTPUT ?= demo-output

# One thread of torch: processes beside each other share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

SBOM_TOOL := cyclonedx-bom==7.5.0

.PHONY: demo test test-all check slow soak bench docs install lock sbom clean

install: $(STAMP)

# The lock pins exact versions and the sums of their files; on another platform `pip install -e .[dev]`
# resolves anew.
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@# All cores at once, where pip takes one. Left out, every worker process would compile torch for
	@# itself wherever PYTHONDONTWRITEBYTECODE is set. One file of torch is for Python 3.12 alone. What
	@# else does not compile is named and ends nothing: it may never be imported.
	@$(BIN)/python -m compileall -q -j 0 -x '/py312_' $(VENV)/lib || true
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/dstc translate manifests/demo.parquet $(DEMO_OUTPUT) --slots 4 --rows-per-shard 4
	$(BIN)/dstc report $(DEMO_OUTPUT)
	@# Two looks that repeat: guided, then by a student that has learned them, and both in one report.
	$(BIN)/dstc translate manifests/glossy.parquet $(DEMO_OUTPUT)-guided --slots 4 --rows-per-shard 4
	$(BIN)/dstc translate manifests/glossy.parquet $(DEMO_OUTPUT)-student --student manifests/glossy
	$(BIN)/dstc report $(DEMO_OUTPUT)-student --beside $(DEMO_OUTPUT)-guided

# The fast part: style, types, unit tests.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# In order of folders: tests/unit/benchmarks has the longest ones, which at the end would run alone.
	$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/unit tests/hostile

# What starts Ray, one after the other: three at once starved Ray's daemons on two slow cores, and its job
# server refused work.
test: check
	$(PYTEST) --numprocesses 2 --dist loadfile tests/parity
	$(PYTEST) tests/integration tests/chaos

test-all: test slow soak

# The presets at full size with random weights: a quarter of an hour on two cores, 19 GiB of memory.
slow: $(STAMP)
	$(BIN)/python -m pytest tests/slow tests/unit/gpu_without_gpu tests/unit/benchmarks/test_gpu_check.py -m slow

# A few hundred rows on a real S3 server while processes are killed and storage fails: 8
# minutes on two busy cores.
# All of it, 20,000 rows, is `python -m benchmarks.soak`.
soak: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak --quick

# On the CPU, one thread: the engine against the authors' evaluation pattern, how full its slots are,
# and where a step's time goes. About 10 minutes.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.engine_speed --quick
	$(BIN)/python -m benchmarks.engine_speed --occupancy --quick
	$(BIN)/python -m benchmarks.profile_step
	$(BIN)/python -m benchmarks.profile_step --precision bf16

# The documentation as a site, in build/site; a dead link ends it. Its search alone needs a server.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Follows what pyproject.toml adds or drops; `python deploy/lock.py --upgrade` takes newer versions. Needs uv.
lock:
	$(PYTHON) deploy/lock.py

# What is installed, with licenses (docs/licenses.md), as CycloneDX. The tool is no part of it, so it has
# an environment of its own.
sbom: $(STAMP)
	$(PYTHON) -m venv $(VENV)/sbom
	$(VENV)/sbom/bin/python -m pip install --quiet $(SBOM_TOOL)
	$(VENV)/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.json $(BIN)/python

clean:
	rm -rf $(VENV) $(DEMO_OUTPUT) $(DEMO_OUTPUT)-guided $(DEMO_OUTPUT)-student build *.egg-info sbom.json
