# make demo: train a small weight-sparse model and complete code with it.   make test: run the tests.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

# Every module of the package, for mypy.
MODULES := $(filter-out setup.py build/% tests/% benchmarks/% runs/%,$(wildcard *.py */*.py))
TYPED := $(filter-out sparse_circuits.__init__,$(subst /,.,$(MODULES:%.py=sparse_circuits.%)))

# What meets transformers closely enough to run again on its newest version.
ON_NEWEST := tests/test_model.py tests/test_keywords.py tests/test_generation.py tests/kernels/test_attention.py tests/test_remote_code.py tests/test_hub.py tests/test_config.py \
  tests/checkpoints/test_tokenizer.py tests/checkpoints/test_writing.py tests/test_sparse_file.py tests/training/test_callback.py tests/training/test_guards.py tests/circuits/test_compiled.py

# There, of the models of one feature each, those with all of them and with none stand for some; nor what is no matter of transformers, or of another version of it.
FEWER := not (sinusoidal or concatenated or added or abs_topk or layer_norm_relu or tied or knows_more or killed or 4_57)

.PHONY: demo test quick gpu check format compat newest beside browser venv clean

demo: venv
	rm -rf runs/demo
	$(BIN)/csp demo --out runs/demo

test: venv compat newest beside browser
	$(BIN)/python -m pytest tests -q -n 2
	PYTHONPATH=.venv-newest $(BIN)/python -m pytest $(ON_NEWEST) -k "$(FEWER)" -q -n 2

# What breaks most things when it breaks, in some two minutes.
QUICK := tests/test_house.py tests/test_wiring.py tests/test_docs.py tests/test_config.py tests/test_topk.py tests/test_nonzeros.py \
  tests/kernels tests/test_generation.py tests/training/test_projection.py tests/training/test_selection.py tests/corpora tests/circuits/test_ablation.py \
  tests/circuits/test_prune.py tests/circuits/test_circuit_file.py tests/circuits/test_export.py tests/viewer/test_data.py

quick: venv
	$(BIN)/python -m pytest $(wildcard $(QUICK)) -q -n 2 -m "not slow"

# All that is to be known of a GPU, in ten minutes: on a bare machine too, by its own Python, where torch, Triton and transformers are there.
gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/types && ln -sfn ../.. build/types/sparse_circuits  # mypy does not see editable installs
	$(BIN)/python -m sparse_circuits.viewer.page > build/page.js
	$(BIN)/oxlint --quiet -c .oxlintrc.json build/page.js
	MYPYPATH=build/types $(BIN)/mypy $(addprefix -m ,$(TYPED:.__init__=))

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt torch==2.13.0
	$(PIP) -c constraints.txt -e ".[dev,fast,train,search,serve,publish,lens,notebook,ecosystem]"
	touch $(STAMP)

# Chromium and Firefox for the tests of the circuit page. Where there is no apt or no right to install, those tests are skipped and say so.
browser:
	@command -v chromium >/dev/null && command -v firefox-esr >/dev/null || \
	  { command -v apt-get >/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium firefox-esr >/dev/null; } || true

# transformers 4.57 beside the environment, for the tests that load our remote code there.
compat: venv .venv-compat/transformers

.venv-compat/transformers:
	$(PIP) --target .venv-compat --no-deps transformers==4.57.6 huggingface-hub==0.36.0 tokenizers==0.22.1
	$(PIP) --target .venv-compat requests

# The newest transformers that pip finds, beside the environment, with what it wants; the rest as pinned.
newest: venv .venv-newest/transformers

.venv-newest/transformers: $(STAMP)
	grep -viE '^(transformers|huggingface.hub|tokenizers)==' constraints.txt > .venv/newest.txt
	$(PIP) --target .venv-newest --upgrade -c .venv/newest.txt transformers
	touch .venv-newest/transformers

# SAELens and sparsify, which want another TransformerLens than our adapter: an environment that has all of the other one, and theirs before it.
beside: venv .venv-beside/.installed

.venv-beside/.installed: $(STAMP)
	$(BIN)/python -m venv .venv-beside
	$(BIN)/python -c "import glob, sysconfig; open(glob.glob('.venv-beside/lib/python*/site-packages')[0] + '/main.pth', 'w').write('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))"
	.venv-beside/bin/python -m pip install --quiet --disable-pip-version-check sae-lens==6.54.12 eai-sparsify==1.3.3
	touch .venv-beside/.installed

clean:
	rm -rf .venv .venv-compat .venv-newest .venv-beside runs build *.egg-info
