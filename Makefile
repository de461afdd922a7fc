# Every target installs what it needs into .venv first, once, and again only when setup.cfg or pyproject.toml
# changes. Paths are relative, so a clone may stand anywhere, in a folder with spaces too.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# pip must not run twice at once in one environment, whatever -j says.
.NOTPARALLEL:

PYTHON ?= python3
ARGS ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := setup.cfg pyproject.toml
SOURCES := kelip_lightning data_modules
CORPUS_VENV := .venv-corpus

##@ Work

.PHONY: help
help: ## list the targets (the default)
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z][a-z-]*:.*## / {printf "  %-22s %s\n", $$1, $$2}' Makefile
	@printf '\n%s\n%s\n' 'Options: ARGS="key=value ..." (overrides of the experiment, or options of the tool),' \
	  '         PYTHON=python3.12 (which Python makes the environment), WORKERS=2 (test processes).'

.PHONY: pretrain
pretrain: $(VENV)/.base ## train on the embedded corpus: MAE pre-training, contrastive training, evaluation
	$(BIN)/kelip pretrain experiments/emoji/pretrain.yaml $(ARGS)

# The newest run of `make pretrain`, else the small model that ships.
DEMO_MODEL = $(if $(wildcard runs/emoji/contrastive/dual_encoder/model.safetensors),runs/emoji,emoji)

.PHONY: demo
demo: $(VENV)/.demo ## search the embedded corpus in the browser (ARGS="--port 8000 --no-browser")
	$(BIN)/kelip search $(DEMO_MODEL) experiments/emoji/contrastive.yaml --set unseen_design $(ARGS)

.PHONY: tensorboard
tensorboard: $(VENV)/.base ## open TensorBoard on runs/ (ARGS="--port 6007")
	@echo 'What matters, in order, is on the page Custom Scalars: docs/monitoring.md.'
	$(BIN)/tensorboard --logdir runs $(ARGS)

SEEDS := 0 1 2
STUDY := runs/mae-study
COMMA := ,
EMPTY :=
# $(call runs,VARIANT): the variant's run folders, as kelip compare takes them.
runs = $(subst $(EMPTY) ,$(COMMA),$(strip $(foreach seed,$(SEEDS),$(STUDY)/$(1)-$(seed))))

.PHONY: mae-study
mae-study: $(VENV)/.base ## train with and without MAE pre-training over three seeds, and print the table (over an hour)
	set -e; for seed in $(SEEDS); do for variant in scratch mae; do \
	  if [ -e $(STUDY)/$$variant-$$seed/report.json ]; then continue; fi; \
	  off=; [ $$variant = mae ] || off=mae=null; \
	  $(BIN)/kelip pretrain experiments/emoji/pretrain.yaml \
	    output_dir=$(STUDY) name=$$variant-$$seed seed=$$seed $$off $(ARGS); \
	done; done
	$(BIN)/kelip compare scratch=$(call runs,scratch) mae=$(call runs,mae) --csv $(STUDY)/compare.csv

ABLATE := $(BIN)/kelip ablate
STUDIES := experiments/ablations

.PHONY: ablations
ablations: $(VENV)/.base ## train and report all studies, resuming interrupted ones (ARGS="--quick", "--jobs 2")
	set -e; for study in $(filter-out %/length.yaml,$(wildcard $(STUDIES)/*.yaml)); do $(ABLATE) $$study --resume $(ARGS); done

.PHONY: ablation-schemes
ablation-schemes: $(VENV)/.base ## the study of MAE pre-training and multi-crop
	$(ABLATE) $(STUDIES)/training_schemes.yaml --resume $(ARGS)

.PHONY: ablation-augmentation
ablation-augmentation: $(VENV)/.base ## the study of augmentations
	$(ABLATE) $(STUDIES)/augmentation.yaml --resume $(ARGS)

.PHONY: ablation-cross-lingual
ablation-cross-lingual: $(VENV)/.base ## the study of Korean and English captions on the same images and on others
	$(ABLATE) $(STUDIES)/cross_lingual.yaml --resume $(ARGS)

.PHONY: dashboard-screenshot
dashboard-screenshot: $(VENV)/.base ## screenshots of TensorBoard on runs/ with headless Chromium, into runs/dashboard/
	$(BIN)/python -m tests.dashboard.screenshot --logdir runs --output runs/dashboard $(ARGS)

BENCHMARKS := runs/benchmarks

.PHONY: benchmark
benchmark: $(VENV)/.test ## all benchmarks, into runs/benchmarks/ (hours; ARGS="--threads 2" for the step)
	$(BIN)/kelip benchmark step --output $(BENCHMARKS) $(ARGS)
	$(BIN)/kelip benchmark step --precision 32 --output $(BENCHMARKS)/float32 $(ARGS)
	$(BIN)/kelip benchmark step --growth --output $(BENCHMARKS)
	set -e; for name in loss data evaluation; do $(BIN)/kelip benchmark $$name --output $(BENCHMARKS); done
	$(BIN)/kelip benchmark run experiments/emoji/pretrain.yaml --output $(BENCHMARKS)

.PHONY: benchmark-data
benchmark-data: $(VENV)/.test ## samples per second and core of the data path, compared with raw decoding and open_clip's loader
	$(BIN)/kelip benchmark data --output $(BENCHMARKS) $(ARGS)

.PHONY: benchmark-store
benchmark-store: $(VENV)/.store ## samples per second from an S3 server that answers late, beside WebDataset's reader
	$(BIN)/kelip benchmark store --output $(BENCHMARKS) $(ARGS)

.PHONY: benchmark-evaluation
benchmark-evaluation: $(VENV)/.base ## memory of an evaluation of 50,000 pictures and of 5,000 x 25,000 retrieval; one rank and two
	$(BIN)/kelip benchmark evaluation --output $(BENCHMARKS) $(ARGS)

.PHONY: gpu-report
gpu-report: $(VENV)/.test ## check and measure on a GPU what only a GPU can, in under ten minutes (ARGS="--parts memory")
	$(BIN)/kelip benchmark gpu --output runs/gpu-report $(ARGS)

##@ Development

.PHONY: test
test: $(VENV)/.test ## run the tests, without those marked slow (ARGS="-k tokenizer")
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.test ## run the tests marked slow
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

# Debian's packages; elsewhere, or without root, what is missing is skipped with a reason.
CLUSTER_PACKAGES := slurm-wlm munge iproute2

.PHONY: test-cluster
test-cluster: $(VENV)/.store ## run the tests against Slurm and an S3 server on this machine, started for them (as root)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! command -v slurmctld > /dev/null; then \
	  apt-get update -qq && apt-get install -y -qq $(CLUSTER_PACKAGES); fi
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m cluster -n 4 --dist loadfile tests/cluster $(ARGS)

.PHONY: gradient-certificate
gradient-certificate: $(VENV)/.test ## print the gradient error for every world size, strategy and chunking
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.distributed.certificate $(ARGS)

.PHONY: benchmark-loss
benchmark-loss: $(VENV)/.base ## print memory and time of the loss, whole and in chunks
	$(BIN)/kelip benchmark loss --output $(BENCHMARKS) $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## check style, types, layers and code size; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python -m tests.lint.code_shape $(SOURCES) tests

.PHONY: format
format: $(VENV)/.dev ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: emoji-corpus
emoji-corpus: $(CORPUS_VENV)/.installed ## rebuild data_modules/emoji/ from its pinned sources, byte for byte
	$(CORPUS_VENV)/bin/python -m data_modules.emoji.build $(ARGS)

SHIPPED := data_modules/assets/models/emoji

.PHONY: shipped-model
shipped-model: $(VENV)/.base ## train the model that ships as README's command does, and write it anew in half precision
	$(BIN)/kelip pretrain experiments/emoji/pretrain.yaml output_dir=runs/shipped $(ARGS)
	rm -rf $(SHIPPED).new
	$(BIN)/kelip export runs/shipped/emoji --format open_clip --dtype float16 \
	  --card-notes $(SHIPPED)_notes.md --output $(SHIPPED).new
	rm -rf $(SHIPPED)
	mv $(SHIPPED).new $(SHIPPED)

.PHONY: clean
clean: ## remove caches and build products; keeps .venv and runs/ (no target ever deletes runs)
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(SOURCES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: clean-venv
clean-venv: ## remove the environments, to install afresh
	rm -rf $(VENV) $(CORPUS_VENV)

# ---- environments ----

# $(call check-python): stop with a sentence unless $(PYTHON) can make an environment.
define check-python
@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  printf '%s\n' 'Python 3.11 or newer is needed, and "$(PYTHON)" is not: install it, or name another one:' \
    '  make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
  printf '%s\n' '"$(PYTHON)" has no venv module to make an environment with; install it' \
    '  (Debian, Ubuntu: apt install python3-venv), or name another one: make $(MAKECMDGOALS) PYTHON=python3.12' \
    >&2; exit 1; }
endef

# $(call install,ENVIRONMENT,PIP ARGUMENTS,STAMPS,REMARK): after an installation that was cut off, pip may take half a
# package for a whole one, so the environment is made anew; after one that pip itself gave up, it is kept.
define install
@trap 'exit 130' INT TERM; \
if [ -e $(1)/.unfinished ]; then \
  echo 'The last installation was cut off: making $(1) anew.'; \
  "$(PYTHON)" -m venv --clear $(1) && touch $(1)/.python || exit 1; \
fi; \
echo 'Installing into $(1): $(2)$(4)'; \
touch $(1)/.unfinished; \
$(1)/bin/python -m pip install --disable-pip-version-check $(2) || { \
  status=$$?; rm -f $(1)/.unfinished; exit $$status; }; \
rm -f $(1)/.unfinished; \
touch $(3)
endef

$(VENV)/.python $(CORPUS_VENV)/.python:
	$(check-python)
	"$(PYTHON)" -m venv --clear $(@D)
	@touch $@

# A marker left behind is newer than every stamp: all of them are then due again.
$(VENV)/.unfinished $(CORPUS_VENV)/.unfinished: ;

FIRST := $(if $(wildcard $(VENV)/.base),, (the first time takes some minutes and about 6 GB))
DUE := $(REQUIREMENTS) $(wildcard $(VENV)/.unfinished)

$(VENV)/.base: $(DUE) | $(VENV)/.python
	$(call install,$(VENV),--editable .,$@,$(FIRST))

$(VENV)/.test: $(DUE) | $(VENV)/.python
	$(call install,$(VENV),--editable ".[test]",$(VENV)/.base $@,$(FIRST))

$(VENV)/.store: $(DUE) | $(VENV)/.python
	$(call install,$(VENV),--editable ".[test$(COMMA)store]",$(VENV)/.base $(VENV)/.test $@,$(FIRST))

$(VENV)/.demo: $(DUE) | $(VENV)/.python
	$(call install,$(VENV),--editable ".[demo]",$(VENV)/.base $@,$(FIRST))

$(VENV)/.dev: $(DUE) | $(VENV)/.python
	$(call install,$(VENV),--editable ".[dev]",$(VENV)/.base $@,$(FIRST))

$(CORPUS_VENV)/.installed: data_modules/emoji/requirements.txt $(wildcard $(CORPUS_VENV)/.unfinished) | $(CORPUS_VENV)/.python
	$(call install,$(CORPUS_VENV),--requirement $<,$@)
