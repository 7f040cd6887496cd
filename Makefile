# Every target stands on .venv, which `make setup` builds by itself and rebuilds when the locks change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := lib jobs tests
# Set, it would have each of the hundreds of processes that tests start compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types tests touched unit integration bench fuzz faults docs format lock advisories sbom images push load deploy status logs undeploy e2e clean

help:  ## list the targets
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with everything the other targets need

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11 to 3.13 is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1): try make PYTHON=python3.12" >&2; exit 2; }
	@echo "Installing the pinned packages into $(VENV), once: some minutes, about 4 GB" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## the whole pipeline on a board of its own: two tags in, two evaluated classifiers out
	$(BIN)/imagetag demo --output demo-output

# All of them, whichever fail: what is wrong is told at once, and summed up at the end. Types take one processor
# a quarter of a minute, and are checked beside the tests.
TESTS := tests
test: $(READY)  ## everything CI runs
	@log=$$(mktemp); trap 'rm "$$log"' EXIT; failed=; told=; \
	note() { if [ $$2 -eq 0 ]; then told="$$told\n$$1: passed"; else told="$$told\n$$1: FAILED" failed=yes; fi; }; \
	$(MAKE) --no-print-directory types >"$$log" 2>&1 & types=$$!; \
	$(MAKE) --no-print-directory lint; note lint $$?; \
	$(MAKE) --no-print-directory $(TESTS); tests=$$?; \
	wait $$types; note types $$?; cat "$$log"; note $(TESTS) $$tests; \
	printf "$$told\n"; test -z "$$failed"

check: $(READY)  ## lint, types, and the tests of what differs from main (SINCE=another): before a commit
	@$(MAKE) --no-print-directory test TESTS=touched

lint: $(READY)  ## ruff, and who may import whom
	@failed=; $(BIN)/ruff check $(SOURCES) || failed=1; $(BIN)/ruff format --check $(SOURCES) || failed=1; \
	  $(BIN)/lint-imports || failed=1; test -z "$$failed"

types: $(READY)  ## mypy, strict on the library and the jobs
	$(BIN)/mypy

# A file's tests are one process's, as they share what took long to make. Files that take minutes
# begin first, and those of unit tests, which take seconds, are last: no process is alone at the end.
# Where a process dies the run ends, with its test named: replaced, xdist 3.8 would wait without end.
BY_FILE := --max-worker-restart 0 --dist loadfile --no-loadscope-reorder --numprocesses
tests: $(READY)  ## all tests, in one go
	$(BIN)/pytest tests/e2e tests/integration tests/unit $(BY_FILE) 4

# tests/unit mirrors the packages: what changed says what to run. Helpers of tests are of all of them.
SINCE ?= main
TESTS_OF = s,^lib/imagetag/([^/]+)/.*,tests/unit/\1,p; s,^lib/imagetag/[^/]+$$,tests/unit/base,p; \
  s,^(jobs|k8s)/.*,tests/unit/\1,p; s,^tests/([^/]+|builders/.*)$$,tests/unit,p; s,^tests/.*/test_[^/]+$$,&,p
touched: $(READY)
	@git rev-parse --quiet --verify "$(SINCE)^{commit}" >/dev/null || \
	  { echo "git knows no commit $(SINCE) here to compare with: say which, as in make check SINCE=origin/main" >&2; exit 2; }
	@changed=$$(git diff --name-only --diff-filter=d --merge-base $(SINCE) && git ls-files --others --exclude-standard) && \
	  $(BIN)/pytest tests/unit/project $$(echo "$$changed" | sed -nE '$(TESTS_OF)' | sort -u) $(BY_FILE) auto --maxprocesses 4

unit: $(READY)  ## unit tests, in a few minutes
	$(BIN)/pytest tests/unit $(BY_FILE) auto --maxprocesses 4

integration: $(READY)  ## tests with real servers, browsers and processes on loopback
	$(BIN)/pytest tests/e2e tests/integration $(BY_FILE) 4

bench: $(READY)  ## speed, memory and growth as one table of ratios, into docs/figures.md: a quarter of an hour
	$(BIN)/python -m tests.benchmarks --write

# What these take besides; where there is no atheris for a machine, hypothesis alone leads.
TOOLS := $(VENV)/.tools
$(TOOLS): requirements/tools.txt $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --no-deps -r $<
	@touch $@

FUZZ_SECONDS ?= 10
fuzz: $(READY)  ## all that reads what comes from outside: FUZZ_SECONDS=10 for each of TARGETS, or of all
	@$(MAKE) --no-print-directory $(TOOLS) || echo "atheris cannot be had here: hypothesis alone leads" >&2
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(TARGETS)

# What cannot be looked up counts as wrong: where nobody answered, nothing was checked.
advisories: $(TOOLS)  ## known vulnerabilities of the packages of all locks: asks PyPI, or SERVICE=osv
	@failed=; for lock in requirements/*.txt; do \
	  echo "$$lock:"; \
	  $(BIN)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
	    --vulnerability-service $(or $(SERVICE),pypi) -r $$lock || failed="$$failed $$lock"; \
	done; \
	test -z "$$failed" || { echo "not found to be free of known vulnerabilities:$$failed (above is why; where it is that" \
	  "nobody could be asked, nothing was checked)" >&2; exit 1; }

sbom: $(READY)  ## what is in each image, from its lock: CycloneDX in build/sbom
	$(BIN)/python -m tests.packages build/sbom

# Container images, by docker, podman or buildah. What the Dockerfiles ask for is taken from make's arguments
# or the environment: make images DEVICE=cpu BROWSER=1 WEIGHTS=vgg19,mobilenet PIP_INDEX_URL=...
# The first that answers, asked once where it is needed: docker without its daemon is no engine.
ifeq ($(origin ENGINE),undefined)
ENGINE = $(eval ENGINE := $(shell for name in docker podman buildah; do $$name info >/dev/null 2>&1 && echo $$name && break; done))$(ENGINE)
endif
REGISTRY ?= localhost
DEVICE ?= cuda
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' lib/imagetag/__init__.py)
SCRAPE_IMAGE = $(REGISTRY)/imagetag-scrape:$(VERSION)
TRAIN_IMAGE = $(REGISTRY)/imagetag-train:$(VERSION)$(if $(filter cpu,$(DEVICE)),-cpu)
# docker and podman keep layers by themselves.
export BUILDAH_LAYERS ?= true
given = $(foreach name,$(1),$(if $(filter-out undefined,$(origin $(name))),--build-arg $(name)))
engine = $(or $(ENGINE),$(error docker, podman or buildah is needed, and `info` of none of them works))
BUILD = $(engine) build --build-arg VERSION=$(VERSION) \
  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
  $(call given,BASE_IMAGE PIP_INDEX_URL PIP_EXTRA_INDEX_URL CERTIFICATES)

images:  ## the container images: DEVICE=cpu without CUDA, BROWSER=1, WEIGHTS=vgg19,..., REGISTRY=...
	$(BUILD) $(call given,BROWSER) -f Dockerfile.scrape -t $(SCRAPE_IMAGE) .
	$(BUILD) $(call given,WEIGHTS WEIGHTS_URL) --build-arg DEVICE=$(DEVICE) -f Dockerfile.train -t $(TRAIN_IMAGE) .

push:  ## the images into REGISTRY, with the same DEVICE
	$(engine) push $(SCRAPE_IMAGE)
	$(engine) push $(TRAIN_IMAGE)

load:  ## the images into a cluster of kind or minikube, with the same DEVICE and REGISTRY
	@set -e; context=$$(kubectl config current-context); \
	case $$context in \
	  kind-*) loader=kind ;; \
	  minikube) loader=minikube ;; \
	  *) echo "the context $$context is neither kind's nor minikube's: make push to a registry instead" >&2; exit 2 ;; \
	esac; \
	command -v $$loader >/dev/null || { echo "the context is $$context, and $$loader is not installed" >&2; exit 2; }; \
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	for image in $(SCRAPE_IMAGE) $(TRAIN_IMAGE); do \
	  file=$$folder/image.tar; rm -f "$$file"; \
	  case $(notdir $(engine)) in \
	    buildah) buildah push -q $$image docker-archive:$$file:$$image ;; \
	    *) $(engine) save -o $$file $$image ;; \
	  esac; \
	  case $$loader in \
	    kind) kind load image-archive $$file --name $${context#kind-} ;; \
	    minikube) minikube image load $$file ;; \
	  esac; \
	done

# On the cluster of the current kubectl context; k8s/deploy.sh says what can be set besides OVERLAY and TAGS.
OVERLAY ?= local
NAMESPACE ?= imagetag
JOB ?= chain
TAIL ?= 20
export OVERLAY TAGS TAGS_FILE PODS WORKERS SET REQUESTS ROLE IMAGES

deploy:  ## the pipeline on Kubernetes: OVERLAY=local|eks|gke|... TAGS="a b c" (or TAGS_FILE=, or the overlay's); PLAN=1 tells what it takes
	k8s/deploy.sh $(if $(PLAN),plan,apply)

status:  ## its Jobs and pods, and what the chain waits for
	kubectl -n $(NAMESPACE) get jobs,pods -o wide
	@kubectl -n $(NAMESPACE) logs job/chain --tail 1 2>/dev/null || true

logs:  ## the log of its JOB=scrape|explore|embed|train|evaluate|predict|chain: TAIL=20 lines a pod, FOLLOW=--follow for more
	kubectl -n $(NAMESPACE) logs -l app.kubernetes.io/component=$(JOB) --prefix --tail $(TAIL) --max-log-requests 100 $(FOLLOW)

undeploy:  ## delete its namespace, and all that is in it, in mid-work too; what is in an outside bucket stays
	@NAMESPACE=$(NAMESPACE) k8s/undeploy.sh

e2e: $(READY)  ## the pipeline and its accidents on the cluster of the current kubectl context: half an hour
	$(BIN)/pytest -x --log-cli-level INFO tests/e2e/cluster/pipeline.py

KILLS ?= 50
SEED ?= 1
faults: $(READY)  ## the whole pipeline killed KILLS=50 times at random, by SEED=1, while all else goes wrong: is its end that of a quiet run?
	$(BIN)/python -m tests.faults --seed $(SEED) --kills $(KILLS)

docs: $(READY)  ## the tables of options in docs/, from the jobs' settings
	$(BIN)/python -m tests.docs

format: $(READY)  ## let ruff rewrite the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# The locks agree on every version: dev.txt is resolved first and constrains the others.
UV_COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
lock:  ## resolve requirements/*.txt anew (needs uv); UPGRADE=--upgrade takes newer versions
	$(UV_COMPILE) $(UPGRADE) pyproject.toml --extra train --extra dev -o requirements/dev.txt
	$(UV_COMPILE) -c requirements/dev.txt pyproject.toml --extra metrics -o requirements/scrape.txt
	$(UV_COMPILE) -c requirements/dev.txt pyproject.toml --extra browser --extra metrics -o requirements/scrape-browser.txt
	$(UV_COMPILE) -c requirements/dev.txt pyproject.toml --extra train --extra metrics --extra onnx --extra parquet -o requirements/train-cpu.txt
	$(UV_COMPILE) -c requirements/dev.txt pyproject.toml --extra train --extra metrics --extra onnx --extra parquet --extra cuda -o requirements/train.txt
	$(UV_COMPILE) -c requirements/dev.txt requirements/tools.in -o requirements/tools.txt

clean:  ## remove .venv, caches and the demo's output
	rm -rf $(VENV) .venv-bench build demo-output .mypy_cache .pytest_cache .ruff_cache
