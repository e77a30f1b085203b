# You need only Python 3.11 or newer; the first call installs the rest.
#
# make train     trains on the digits, in two minutes; WORKDIR, CONFIG and FLAGS go to train.py
# make eval      evaluates that run
# make report    writes a page about it, WORKDIR/report.html
# make test      runs the tests, two at a time: compilation has one thread
# make test-slow runs the long tests
# make test-all  runs both, in less time than one after the other
# make lint      checks the style
# make parity    compares with PyTorch, in .venv-parity (Python 3.11)
# make bench     measures the speed on CPU beside PyTorch's; fails where it is below 0.9 of what
#                docs/performance.md has
# make browser   opens pages, with .venv-browser and packages of npm, in a Chromium that is there
#                already: CHROMIUM is its path, by default that of `chromium`
# make notebook  executes examples/finetune.ipynb into build/. CONVNEXT_MODEL names weights other
#                than published ones: whatever convnext.from_pretrained takes
# make tensorflow  writes models for TensorFlow and Keras and loads them there, with .venv-tensorflow:
#                1.5 GB, Python 3.12 (PYTHON312)
# make gpu-compile  compiles training and inference for an H100 that need not be there, with .venv-gpu:
#                5 GB; see docs/performance.md
# make package   builds the distributions into dist/, installs the wheel elsewhere and tests it
# make api       writes the reference, of the docstrings, into build/api
# make mutants   breaks the code in one place at a time and reports what no test notices; an hour on
#                two CPU cores. NAMES are some of those of `python -m dev.mutants --list`
# make audit     asks PyPI for known advisories against the versions in constraints.txt, and against
#                the lowest that the requirements allow, build/floors.txt; one that cannot be looked
#                up is a failure
# make clean     removes the environments
#
# PYTHON is the interpreter of a new environment. CONSTRAINTS names a file of exact versions:
# make test CONSTRAINTS=constraints.txt, make browser CONSTRAINTS=constraints-browser.txt.
# Where uv is on the PATH it installs what train and test need, in a fifth of pip's time.

PYTHON ?= python3
PYTHON312 ?= python3.12
CONFIG ?= configs/digits.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
FLAGS ?=
NAMES ?=
VARIANT ?= tiny
CONSTRAINTS ?=

SAY_INSTALL = @echo "installing $(1) into $(@D): only this once; it may take some minutes"
CONSTRAINT = $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
PIP_INSTALL = -m pip install --quiet --no-compile --disable-pip-version-check $(CONSTRAINT)
UV := $(shell command -v uv)
INSTALL = $(if $(UV),$(UV) pip install --quiet --python=.venv/bin/python $(CONSTRAINT),.venv/bin/python $(PIP_INSTALL))

.PHONY: train eval report test test-slow test-all parity browser notebook mutants bench gpu-compile \
	tensorflow litert lint package api audit clean

train: .venv/train.installed
	.venv/bin/python train.py --config=$(CONFIG) --workdir=$(WORKDIR) $(FLAGS)

eval: .venv/train.installed
	.venv/bin/python eval.py --config=$(CONFIG) --workdir=$(WORKDIR) $(FLAGS)

report: .venv/train.installed
	.venv/bin/python -m tools.report --workdir=$(WORKDIR)

PYTEST = -m pytest --numprocesses=2
BY_FILE = --dist=loadfile --no-loadscope-reorder
test: .venv/test.installed
	.venv/bin/python $(PYTEST) $(BY_FILE)

test-slow: .venv/test.installed
	.venv/bin/python $(PYTEST) $(BY_FILE) -m slow

test-all: .venv/test.installed
	.venv/bin/python $(PYTEST) $(BY_FILE) -m ""

parity: .venv-parity/installed
	.venv-parity/bin/python $(PYTEST) tests/parity

browser: .venv-browser/installed .venv-browser/npm/installed
	.venv-browser/bin/python $(PYTEST) $(BY_FILE) tests/browser

notebook: .venv-browser/installed
	.venv-browser/bin/python -m nbconvert --to notebook --execute examples/finetune.ipynb \
		--ExecutePreprocessor.record_timing=False --output-dir=build --output=finetune.ipynb

mutants: .venv/test.installed
	.venv/bin/python -m dev.mutants --jobs=2 $(NAMES)

gpu-compile: .venv-gpu/installed
	JAX_PLATFORMS=cpu .venv-gpu/bin/python -m dev.benchmark gpu --variant=$(VARIANT) --batch_size=256 \
		--dtype=bfloat16

tensorflow: .venv/test.installed .venv-tensorflow/installed
	.venv/bin/python -m dev.tensorflow_folders build/tensorflow
	.venv-tensorflow/bin/python dev/tensorflow_peer.py build/tensorflow

litert: .venv-litert/installed
	.venv-litert/bin/python -m dev.litert_check

BENCH = -m dev.benchmark model --variant=tiny --peer=timm --rounds=3 --page=docs/performance.md
bench: .venv-parity/installed
	.venv-parity/bin/python $(BENCH) --mode inference training --batch_size 8
	.venv-parity/bin/python $(BENCH) --mode inference --batch_size 1

lint: .venv/test.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/shellcheck scripts/*.sh .ci/run
	.venv/bin/check-jsonschema --builtin-schema=vendor.github-workflows .github/workflows/*.yml

package: .venv/test.installed
	rm -rf *.egg-info build/lib dist  # of earlier builds, which would be packed as well
	.venv/bin/python -m build
	.venv/bin/python -m pytest tests/packaging

api: .venv/test.installed  # matplotlib starts fc-list, which pdoc must allow
	rm -rf build/api  # pages of modules that are gone
	PDOC_ALLOW_EXEC=1 .venv/bin/pdoc convnext convnext/[a-z]*.py convnext/[a-z]*/ -o build/api

audit: .venv/audit.installed build/floors.txt
	.venv/bin/pip-audit --strict --no-deps --disable-pip --requirement=constraints.txt
	.venv/bin/pip-audit --strict --no-deps --disable-pip --requirement=build/floors.txt

build/floors.txt: requirements.txt requirements-dev.txt requirements-browser.txt \
		| .venv/audit.installed
	@mkdir -p build
	.venv/bin/uv pip compile --quiet --python=.venv/bin/python --resolution=lowest-direct \
		--output-file=$@ requirements-browser.txt

clean:
	rm -rf .venv .venv-parity .venv-browser .venv-gpu .venv-tensorflow .venv-litert

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "error: $(PYTHON) is older than Python 3.11; accepted: make PYTHON=python3.12, say"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# These find in .venv what it has.
.venv-parity/bin/python .venv-browser/bin/python: %/bin/python: | .venv/test.installed
	.venv/bin/python -m venv $* || { rm -rf $*; exit 1; }
	.venv/bin/python -c 'import site; print(*site.getsitepackages())' \
		> "$$($*/bin/python -c 'import site; print(*site.getsitepackages())')/venv.pth" \
		|| { rm -rf $*; exit 1; }

.venv/train.installed: requirements.txt | .venv/bin/python
	$(call SAY_INSTALL,requirements.txt)
	$(INSTALL) -r requirements.txt
	@touch $@

# Where processes may not write bytecode, each of them would compile all that it imports.
.venv/test.installed: requirements.txt requirements-dev.txt | .venv/bin/python
	$(call SAY_INSTALL,requirements-dev.txt)
	$(INSTALL) -r requirements-dev.txt
	$(if $(PYTHONDONTWRITEBYTECODE),.venv/bin/python -m compileall -q -j 0 .venv/lib)
	@touch $@

.venv/audit.installed: | .venv/bin/python
	$(call SAY_INSTALL,pip-audit uv)
	.venv/bin/python $(PIP_INSTALL) pip-audit uv
	@touch $@

.venv-parity/installed: requirements.txt requirements-dev.txt requirements-parity.txt \
		| .venv-parity/bin/python
	$(call SAY_INSTALL,requirements-parity.txt)
	.venv-parity/bin/python $(PIP_INSTALL) -r requirements-parity.txt
	@touch $@

.venv-browser/installed: requirements.txt requirements-dev.txt requirements-browser.txt \
		| .venv-browser/bin/python
	$(call SAY_INSTALL,requirements-browser.txt)
	.venv-browser/bin/python $(PIP_INSTALL) -r requirements-browser.txt
	@touch $@

.venv-browser/npm/installed: tests/browser/package.json tests/browser/package-lock.json \
		| .venv-browser/bin/python
	@mkdir -p $(@D)
	cp $^ $(@D)
	$(call SAY_INSTALL,tests/browser/package.json)
	npm ci --silent --ignore-scripts --prefix=$(@D)
	@touch $@

.venv-tensorflow/installed: dev/tensorflow_requirements.txt
	$(PYTHON312) -m venv .venv-tensorflow
	$(call SAY_INSTALL,$<)
	.venv-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv-litert/installed: dev/litert_requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-litert
	$(call SAY_INSTALL,$<)
	.venv-litert/bin/python -m pip install --quiet --disable-pip-version-check -r $< .
	@touch $@

.venv-gpu/installed:
	$(PYTHON) -m venv .venv-gpu || { rm -rf .venv-gpu; exit 1; }
	$(call SAY_INSTALL,jax[cuda13])
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check "jax[cuda13]" flax optax numpy
	@touch $@
