# make demo     set up, then the whole path on a simulated cohort
# make test     set up, then all tests and checks
# make verify   set up, then the long checks: many seeds, benchmarks (results in benchmarks/results)
# make images   set up, then build the container images of all steps (needs podman), and SIF files of
#               them where Apptainer is
# make system   (as root, Debian) outside programs that tests compare with, podman, Apptainer, Slurm
# make lock     resolve the locks anew (needs uv, and Debian's apt-get)
#
# TORCH=cpu (PyTorch's CPU wheels) or TORCH=cuda (from PyPI, several GB).
# WHEELS=DIR takes torch from a local folder of wheels, without network.
# CACHE=DIR keeps images as archives, and loads those whose inputs did not change.

PYTHON ?= python3.11
VENV ?= .venv
# what was set up last, so that `make test` keeps it
TORCH ?= $(if $(wildcard $(VENV)/.done-cuda),cuda,cpu)
WHEELS ?=

LOCKS := containers/native
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
TORCH_FROM := $(if $(WHEELS),--no-index --find-links $(WHEELS),$(if $(filter cpu,$(TORCH)),--index-url https://download.pytorch.org/whl/cpu --retries 1))
SETUP := $(VENV)/.done-$(TORCH)

.PHONY: setup demo test images verify system lock clean
setup: $(SETUP)

$(SETUP): $(LOCKS)/requirements.lock $(LOCKS)/torch-$(TORCH).lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes --no-deps -r $(LOCKS)/requirements.lock
	$(PIP) install --require-hashes --no-deps $(TORCH_FROM) -r $(LOCKS)/torch-$(TORCH).lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	touch $@

demo: setup
	$(VENV)/bin/axoloci demo

test: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/zizmor --offline --quiet .github/workflows
	$(VENV)/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=20 --cov --cov-report=
	$(VENV)/bin/coverage report --include='*/tasks/*' --omit='*/cli.py,*/task.py' --fail-under=90

images: setup
	$(VENV)/bin/axoloci images build $(if $(WHEELS),--wheels $(WHEELS)) $(if $(CACHE),--cache $(CACHE))
	if command -v apptainer || command -v singularity; then $(VENV)/bin/axoloci images sif; fi

verify: setup
	$(VENV)/bin/python -m benchmarks

system:
	containers/native/system.sh

lock:
	$(VENV)/bin/python $(LOCKS)/lock.py

clean:
	rm -rf $(VENV) axoloci-demo dist
