# Everything runs in .venv/, made from requirements.lock by the first target that needs it.
# The first interpreter the lock was made for.
PYTHON ?= $(firstword $(foreach name,python3 python3.12 python3.11,$(shell $(name) -c 'import sys, pip; \
	sys.exit(not ((3, 11) <= sys.version_info < (3, 13) and [*map(int, pip.__version__.split(".")[:2])] >= [22, 3]))' 2>/dev/null && echo $(name))))
OUTSIDE_PATH := $(PATH)
VENV := .venv
STAMP := $(VENV)/.installed

# Quiet and offline: no analytics, no update checks; the state of Prefect stays in the project.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export NO_ALBUMENTATIONS_UPDATE := 1
export YOLO_OFFLINE := true
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_HOME ?= $(CURDIR)/.prefect

CONFIGURE = python -m pipeline configure $(if $(PROFILE),--profile '$(PROFILE)') \
	$(if $(DATA),--data '$(DATA)') $(if $(LAYOUT),--layout '$(LAYOUT)') $(if $(filter 1 true yes,$(SKIP_INVALID)),--skip-invalid) \
	$(if $(WANTED),--wanted $(WANTED)) && python -m detectors check

# A variable that a target cannot do without.
given = $(or $($(1)),$(error $(1) is not given: make $@ $(1)=..., `make help` says what it is))

.PHONY: setup repro prepare flow server schedule test test-fast lint types bench bench-stages bench-embedded bench-concept bench-sampling bench-synthesis bench-evaluation bench-studies bench-proof bench-ways bench-questions sweep concept-gallery placement-gallery lock
.DEFAULT_GOAL := help

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name text; do printf '%-14s %s\n' "$$name" "$$text"; done

setup: $(STAMP)  ## Install the locked environment into .venv/.

$(STAMP): requirements.lock
	@test -n '$(PYTHON)' || { echo 'error: no Python 3.11 or 3.12 with pip 22.3 or newer found; name one with PYTHON=<interpreter>'; exit 1; }
	@PATH='$(OUTSIDE_PATH)' $(PYTHON) -m venv --without-pip $(VENV)
	@sed -n '/^uv==/,/^    # via/p' requirements.lock > $(VENV)/bootstrap.txt
	@PATH='$(OUTSIDE_PATH)' $(PYTHON) -m pip --python $(VENV)/bin/python install --quiet --disable-pip-version-check --require-hashes \
		--requirement $(VENV)/bootstrap.txt
	@$(VENV)/bin/uv pip sync --quiet --python $(VENV)/bin/python --require-hashes requirements.lock
	@touch $@

repro: setup  ## Run every stage that is out of date; DATA=folder LAYOUT=name SKIP_INVALID=1 PROFILE=proof WANTED=300.
	@$(CONFIGURE)
	dvc repro

prepare: setup  ## Import, check and split the photos only; same variables as repro.
	@$(CONFIGURE)
	dvc repro prepare

sweep: setup  ## The whole flow at several values of a parameter: KEY=prepare.k VALUES="2 5 10" (learning curve), KEY=mix.share (ratio); AFRESH=1 after a change.
	python -m flows sweep '$(call given,KEY)' $(call given,VALUES) $(if $(filter 1 true yes,$(AFRESH)),--afresh)

flow: setup  ## The same stages under Prefect, with retries; same variables as repro.
	@$(CONFIGURE)
	python -m flows reproduce

server: setup  ## A Prefect server that stays, for `schedule`; its pages are at http://127.0.0.1:4200.
	prefect server start

schedule: setup  ## What `flow` does at set times, until stopped: CRON='0 3 * * 6' TIMEZONE=Europe/Berlin; needs `server` in another terminal.
	PREFECT_API_URL=$${PREFECT_API_URL:-http://127.0.0.1:4200/api} python -m flows schedule '$(call given,CRON)' $(if $(TIMEZONE),--timezone '$(TIMEZONE)')

# In the order of the files: those with the fewest tests are the longest, and would otherwise come last.
test: setup  ## All tests but the exhaustive ones, two files at a time.
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: setup  ## The tests that need no training or painting, in about a minute.
	pytest -m 'not slow' --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: setup  ## Style.
	ruff check .
	ruff format --check .

types: setup  ## Types.
	pyright

bench: bench-stages bench-evaluation bench-studies $(if $(DATA),bench-embedded bench-concept bench-sampling bench-synthesis)  ## What is promised of speed, memory and networks, into reports/bench/; all of it with DATA=folder of magnetic tiles.

bench-stages: setup  ## Time and memory of every stage of the last `make repro`.
	python -m tests.bench.stages

bench-evaluation: setup  ## What scoring costs beside pycocotools itself, and a resample of the test parts.
	OMP_NUM_THREADS=1 python -m tests.bench.evaluation

bench-studies: setup  ## How often the interval over three folds is wrong, on drawn studies of known truth.
	OMP_NUM_THREADS=1 python -m tests.bench.studies

bench-embedded: setup  ## What the models in the repository are worth on real tiles; DATA=folder of magnetic tiles.
	python -m tests.bench.embedded --data '$(call given,DATA)'

bench-concept: setup  ## What learning a concept costs, on real tiles; DATA=folder of magnetic tiles.
	python -m tests.bench.concept --data '$(call given,DATA)'

bench-synthesis: setup  ## What mass synthesis costs besides the network, and on more workers; DATA=folder of magnetic tiles.
	python -m tests.bench.synthesis --data '$(call given,DATA)'

bench-proof: setup  ## Does synthetic data help on real parts? Hours, resumes; DATA=folder with magnetic-tile and deep-pcb, STUDIES=names, DEVICE=cuda.
	python -m tests.bench.proof --data '$(call given,DATA)' $(if $(STUDIES),--studies $(STUDIES)) $(if $(DEVICE),--device $(DEVICE))

bench-ways: setup  ## How synthetic data is best used, and which link breaks; after bench-proof. STUDY=magnetic_tile|deep_pcb, FOLDS="0 1 2".
	python -m tests.bench.ways $(if $(STUDY),--study $(STUDY)) $(if $(FOLDS),--folds $(FOLDS))

bench-questions: setup  ## Background in boxes, and types held out, on real tiles; after bench-proof. FOLDS="0 1 2".
	python -m tests.bench.questions $(if $(FOLDS),--folds $(FOLDS))

bench-sampling: setup  ## Which sampling options help on real tiles, and what each costs; DATA=folder of magnetic tiles.
	python -m tests.bench.sampling --data '$(call given,DATA)'

concept-gallery: setup  ## References, requests and painted defects of every type, into docs/concept/; DATA=folder LAYOUT=name.
	python -m tests.bench.concept_gallery --data '$(call given,DATA)' --layout '$(call given,LAYOUT)'

placement-gallery: setup  ## Where defects are asked for on good photos, into docs/placement/; DATA=folder LAYOUT=name, CLOSE=1 for small defects.
	python -m tests.bench.placement_gallery --data '$(call given,DATA)' --layout '$(call given,LAYOUT)' $(if $(CLOSE),--close)

lock: setup  ## Write requirements.lock anew after a change of pyproject.toml; versions stay unless they must move.
	uv pip compile pyproject.toml --quiet --all-extras --universal --generate-hashes --output-file requirements.lock
