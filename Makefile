# Everything runs from .venv, which the first target makes from the hash-locked requirements: all of them are
# listed, so pip resolves nothing (without --no-deps it may meet a version newer than the lock, and refuse).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FASHION ?= /usr/share/datasets/fashion-mnist
STAMP := $(VENV)/.installed
ORT_VENV := .venv-ort-training
ORT_BIN := $(ORT_VENV)/bin
ORT_STAMP := $(ORT_VENV)/.installed
ORT_LOCK := requirements-ort-training.lock
ORT_TRAINING := onnxruntime-training-cpu==1.19.2
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help demo test test-ort-training test-torch bench-engines lint types imports tests long nightly prove relock mutants coq bench-sandbox bench-train bench-accuracy bench-precision bench-build bench-phrasings bench-component bench-cifar random-modules leak-selfcheck leak-nightly fuzz-graphs bench-leaktest mutation capacity slot-timing leak-timing data lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Chiron needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

# onnxruntime-training-cpu fills the folder of onnxruntime, so it has an environment of its own.
$(ORT_STAMP): $(ORT_LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "$(ORT_TRAINING) needs Python 3.11 or 3.12: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(ORT_VENV)
	$(ORT_BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(ORT_LOCK)
	$(ORT_BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(STAMP) ## train on real handwritten digits, from secret code and secret data to answers
	$(BIN)/chiron demo

test: $(STAMP) lint types imports tests ## lint, types, import contracts, tests

lint: $(STAMP) ## ruff, all rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy chiron wasm_sandbox enclave paramserver benchmarks tests spec/prover

imports: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

# Many tests wait for the clock, so there are more workers than cores; files begin in the order of tests/conftest.py.
SPREAD := -n 4 --dist loadfile --no-loadscope-reorder

tests: $(STAMP) ## the tests on two cores, with branch coverage; what keeps short slots runs alone
	$(BIN)/pytest $(SPREAD) -m "not alone and not long and not nightly" --cov --cov-report=
	$(BIN)/pytest -m "alone and not long and not nightly" --cov --cov-append --cov-report=term:skip-covered --cov-fail-under=90
	$(BIN)/coverage report --include='chiron/policy/*,enclave/verifier.py' --fail-under=100 --format=total >/dev/null || \
		{ echo "policy and verifier need 100 % branch coverage"; exit 1; }

# What opens the installed engine. Admission, hostile models and the stock gradient graph are the same under both.
ORT_TESTS := $(addprefix tests/graph/test_,ort_training.py gradients.py operators.py engine.py random_networks.py)

test-ort-training: $(ORT_STAMP) ## the second engine: the same gradients from both and from differences, a whole job
	$(ORT_BIN)/pytest -n 2 --dist loadfile $(ORT_TESTS)
	$(ORT_BIN)/pytest tests/training/test_digits_job.py -k second_engine

long: $(STAMP) ## the tests that make test leaves out for time: digits job, prover, languages, random modules
	$(BIN)/pytest $(SPREAD) -m "long and not nightly and not alone"
	$(BIN)/pytest -m "long and not nightly and alone"

nightly: $(STAMP) $(ORT_STAMP) ## the tests that .ci/run leaves out too, and all of tests/graph with the second engine
	$(BIN)/pytest $(SPREAD) -m nightly
	$(ORT_BIN)/pytest $(SPREAD) tests/graph
	$(ORT_BIN)/pytest tests/training/test_digits_job.py

prove: $(STAMP) ## prove the policy: noninterference and leak caps, for every observer
	PYTHONPATH=spec $(BIN)/python -m prover

relock: $(STAMP) ## accept changed labels, readers and caps of the policy into spec/labels.lock
	PYTHONPATH=spec $(BIN)/python -m prover.labels --write

SHARD ?= 1/1
mutants: $(STAMP) ## weaken the policy rule by rule; each must be refuted or reviewed (SHARD=1/24: a sample)
	PYTHONPATH=spec $(BIN)/python -m prover.mutants --shard $(SHARD)

coq: ## check the unwinding theorem (needs coqc: apt-get install coq)
	@command -v coqc >/dev/null || { echo "coqc is not installed: as root, apt-get install coq (Debian)"; exit 1; }
	cd $$(mktemp -d) && cp $(CURDIR)/spec/Unwinding.v . && coqc Unwinding.v | tee checked && \
		grep -q "Closed under the global context" checked

bench-sandbox: $(STAMP) ## time the sandbox: host calls, fresh instances, bulk data, the kernel
	$(BIN)/python -m benchmarks.sandbox

bench-engines: $(STAMP) $(ORT_STAMP) ## time both engines, by turns, on five networks, and their memory (three minutes)
	$(BIN)/python -m benchmarks.engines $(ORT_BIN)/python

TORCH := .torchenv
TORCH_LOCK := benchmarks/training/requirements-torch.lock
$(TORCH)/.installed: $(TORCH_LOCK)
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(TORCH_LOCK)
	@touch $@

test-torch: $(STAMP) $(TORCH)/.installed ## hold gradients against PyTorch's autograd, in an environment of its own
	$(BIN)/pytest tests/graph/test_against_torch.py

bench-train: $(STAMP) $(TORCH)/.installed ## train and infer against PyTorch, which gets an environment of its own
	$(BIN)/python -m benchmarks.training --torch $(TORCH)/bin/python $(BENCH)

bench-accuracy: $(STAMP) $(TORCH)/.installed ## accuracy on Fashion-MNIST against PyTorch, 3 seeds: DATA=DIR has its files
	$(BIN)/python -m benchmarks.training.accuracy --torch $(TORCH)/bin/python --data "$(or $(DATA),$(FASHION))" $(BENCH)

bench-precision: $(STAMP) $(TORCH)/.installed ## gradients against PyTorch's in float64 (two minutes)
	$(BIN)/python -m benchmarks.training.precision --torch $(TORCH)/bin/python $(BENCH)

bench-build: $(STAMP) ## time admission and gradient graphs of known networks (a minute)
	$(BIN)/python -m benchmarks.training.build

bench-phrasings: $(STAMP) ## time every phrasing of a convolution, layer by layer
	$(BIN)/python -m benchmarks.training.phrasings

bench-component: $(STAMP) ## time a Python guest: build, compile, fresh instances (a minute)
	$(BIN)/python -m benchmarks.sandbox_component

EPOCHS ?= 20
bench-cifar: $(STAMP) ## train VGG-9 on CIFAR-10: DATA=DIR is the folder of its binary version (EPOCHS=20)
	@test -n "$(DATA)" || { echo "name the folder with data_batch_1.bin to 5 and test_batch.bin: make bench-cifar DATA=DIR"; exit 1; }
	$(BIN)/python -m benchmarks.cifar "$(DATA)" --epochs $(EPOCHS)

random-modules: $(STAMP) ## 100,000 random modules, two secrets each (hours)
	$(BIN)/python -m benchmarks.random_modules --count 100000

leak-selfcheck: $(STAMP) ## inject each known bug into a copy of the sources; a test must fail that names it
	$(BIN)/python tests/leakage/selfcheck.py

MINUTES ?= 60
leak-nightly: $(STAMP) ## look for leaks with new secrets for MINUTES=60, or as long as is wanted
	$(BIN)/python tests/leakage/nightly.py --minutes $(MINUTES)

bench-leaktest: $(STAMP) ## time the leak test: two-run examples a second (two minutes)
	$(BIN)/python -m benchmarks.leaktest

fuzz-graphs: $(STAMP) ## fuzz admission for MINUTES=60; needs no more than a core
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r tests/graph/requirements-fuzz.lock
	$(BIN)/python tests/graph/fuzz_admission.py --minutes $(MINUTES)

mutation: $(STAMP) ## change kernel, verifier, frames and budgets; a test fails for each change, or it is reviewed
	$(BIN)/python tests/mutation/survivors.py

capacity: $(STAMP) ## estimate each channel's bits a job from runs (ten minutes, on a quiet machine)
	$(BIN)/python -m benchmarks.capacity

slot-timing: $(STAMP) ## what of a guest shows in the times of its slot (a quarter of an hour, on a quiet machine)
	$(BIN)/python -m benchmarks.slot_timing --runs 1000

leak-timing: $(STAMP) ## whether the time of 200,000 answers tells secrets apart (twenty minutes, on a quiet machine)
	$(BIN)/python -m benchmarks.answer_timing --answers 100000

data: ## find Fashion-MNIST, or install Debian's package of it
	@ls $(FASHION)/train-images-idx3-ubyte* >/dev/null 2>&1 || \
		{ command -v apt-get >/dev/null && apt-get install -y dataset-fashion-mnist; } || \
		{ echo "Fashion-MNIST is not in $(FASHION): as root, apt-get install dataset-fashion-mnist (Debian);"; \
		  echo "elsewhere put its four IDX files into a folder and run chiron demo --dataset fashion-mnist --data DIR"; \
		  exit 1; }
	@echo "Fashion-MNIST is in $(FASHION): $(BIN)/chiron demo --dataset fashion-mnist"

lock: ## write the locked requirements again (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
		pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
		--extra build --extra data --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	{ echo '$(ORT_TRAINING)' | uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-deps \
		--python-version 3.11 - && awk '/^[a-z]/ { other = !/^onnxruntime==/ } other' requirements-dev.lock; } > $(ORT_LOCK)

clean: ## remove what the targets made
	rm -rf $(VENV) $(ORT_VENV) .demo build dist mutants .coverage .coverage.* .hypothesis .mypy_cache .ruff_cache .pytest_cache
