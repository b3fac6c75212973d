# The verbs of the project. Everything is installed into .venv; nothing needs root.
PYTHON ?= python3.11
BIN := .venv/bin
# uv does not read pip's find-links by itself.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: help demo test check fix golden bench lock lists images images-gpu sbom base clean
help:
	@echo "make demo    the whole loop on real flights, to a served canary"
	@echo "make test    everything that must pass: checks, then tests"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make fix     format, and mend what ruff can"
	@echo "make golden  rewrite component.yaml and the golden pipelines from the code"
	@echo "make bench   measure the steps and print a table"
	@echo "make lock    resolve the newest allowed versions into requirements.lock"
	@echo "make lists   the packages of each image, from requirements.lock"
	@echo "make images  build the images (docs/images.md); images-gpu, sbom, base"
	@echo "make clean   remove .venv and .fti"

demo: .venv/ready
	$(BIN)/fti demo

test: check
	$(BIN)/python -m pytest -m "not slow" -n 2
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/check_installed.py

fix: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: .venv/ready
	$(BIN)/fti compile --in-place --output tests/golden
	$(BIN)/fti compile loop --resources gpu --output tests/golden/gpu

bench: .venv/ready
	$(BIN)/python benchmarks/steps.py

lock: .venv/ready
	rm -f requirements.lock
	$(BIN)/uv pip compile setup.py --extra local --extra explain --extra tracing --extra dev --python-version 3.11 --no-header --no-annotate -q -o requirements.lock
	sed -i 's/+cpu//' requirements.lock

# What each image holds: images/*.in, in the versions of requirements.lock, with hashes. On CPUs torch comes from
# PyTorch's own index, or from where UV_FIND_LINKS points to.
LISTS := tools predictor predictor-full steps train
LIST = $(BIN)/uv pip compile --quiet --no-header --no-annotate --generate-hashes --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --constraint requirements.lock --excludes images/excludes.txt
lists: .venv/ready
	for list in $(LISTS); do $(LIST) $(if $(UV_FIND_LINKS),,--torch-backend cpu) images/$$list.in -o images/$$list.txt; done
	env -u UV_FIND_LINKS $(LIST) images/predictor-gpu.in -o images/predictor-gpu.txt
	env -u UV_FIND_LINKS $(LIST) images/train.in -o images/train-gpu.txt

# Images: REGISTRY/<target>:<version of the library>. docs/images.md tells what else can be set.
DOCKER ?= docker
BASE ?= python:3.11-slim
REGISTRY ?= kfp-fti
TORCH_BACKEND ?= cpu
IMAGES ?= predictor steps train
VERSION := $(shell sed -n 's/^ *version="\(.*\)",/\1/p' setup.py)
BUILD = DOCKER_BUILDKIT=1 $(DOCKER) build --network host --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null) --build-arg UV_TORCH_BACKEND=$(TORCH_BACKEND) \
	$(if $(CA),--secret id=ca$(comma)src=$(CA)) $(if $(PIP_CONF),--secret id=pip$(comma)src=$(PIP_CONF)) \
	$(if $(UV_CONF),--secret id=uv$(comma)src=$(UV_CONF)) $(BUILD_FLAGS)
comma := ,

images:
	for image in $(IMAGES); do $(BUILD) --target $$image --tag $(REGISTRY)/$$image:$(VERSION) . || exit 1; done

images-gpu:
	$(MAKE) images IMAGES="predictor-gpu train-gpu"

sbom:
	for image in $(IMAGES); do \
		$(BUILD) --build-arg SBOM_OF=$$image --target sbom --output dist . && mv dist/sbom.json dist/$$image-$(VERSION).cdx.json \
		|| exit 1; done

base:
	DOCKER=$(DOCKER) sh images/base.sh kfp-fti/base:bookworm

clean:
	rm -rf .venv .fti

.venv/ready: requirements.lock setup.py
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { echo "$(PYTHON) with venv is needed. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
