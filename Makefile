# What a user and a developer run. The first call installs everything into .venv; later ones find it there.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
RECIPE = digits
STUDY =
RUN =
# Not empty: a search is followed by `make verify`.
VERIFY =
ARGS =
# Processes among which the tests are divided, file by file; with 1, `ARGS=--pdb` and the like can be answered.
JOBS = 2

study = $(if $(STUDY),--study "$(STUDY)")
pytest = .venv/bin/python tests/side_by_side.py $(JOBS)
fast = not slow and not browser
slow = slow or browser

.PHONY: help
help: ## List the targets
	@echo 'make TARGET [RECIPE=name-or-file] [STUDY=name] [ARGS="..."] [PYTHON=python3.12]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r target says; do \
		printf '  %-10s %s\n' "$$target" "$$says"; done

.PHONY: search
search: .venv/.installed ## Search with a recipe (RECIPE=digits); the same command again goes on where it stopped
	.venv/bin/regatta search --config "$(RECIPE)" $(study) $(ARGS)
	$(if $(VERIFY),.venv/bin/regatta verify $(study))

.PHONY: all
all: .venv/.installed ## Search, report, verify and train (RECIPE=digits); only what has changed since is done again
	.venv/bin/regatta all --config "$(RECIPE)" $(study) $(ARGS)

.PHONY: verify
verify: .venv/.installed ## Train the best configurations of a study (STUDY=name) again on fresh seeds, and compare them
	.venv/bin/regatta verify $(study) $(ARGS)

.PHONY: report
report: .venv/.installed ## Write the page that says what a study (STUDY=name) found and how sure that is
	.venv/bin/regatta report $(study) $(ARGS)

.PHONY: train
train: .venv/.installed ## Train the best configuration of a study (STUDY=name); the same command again goes on
	.venv/bin/regatta train $(study) $(ARGS)

.PHONY: predict
predict: .venv/.installed ## Predict the rows of a file (ARGS="--input x.npy") with the champion of the last study
	.venv/bin/regatta predict $(ARGS)

.PHONY: rerun
rerun: .venv/.installed ## Train a trial again from its run in MLflow (RUN=id, or STUDY=name RUN=number), and compare
	.venv/bin/regatta rerun "$(RUN)" $(study) $(ARGS)

.PHONY: ui
ui: .venv/.installed ## Browse the results in the MLflow UI
	.venv/bin/regatta ui $(ARGS)

.PHONY: doctor
doctor: .venv/.installed ## Look over packages, devices, memory, disk, ports, studies and MLflow, and say what to do
	.venv/bin/regatta doctor $(ARGS)

.PHONY: export
export: .venv/.installed ## Export a study (STUDY=name) for other tools
	.venv/bin/regatta export $(study) $(ARGS)

.PHONY: sync
sync: .venv/.installed ## Send to MLflow what it has not received yet
	.venv/bin/regatta sync $(study) $(ARGS)

.PHONY: bench
bench: .venv/.installed ## Measure what the search adds to the time of the training itself
	.venv/bin/python benchmarks/overhead.py $(ARGS)

.PHONY: test
test: .venv/.installed-dev ## Run the fast tests (ARGS="-k name" chooses among them)
	$(pytest) -m "$(fast)" $(ARGS)

.PHONY: test-slow
# Those that start searches use several processes as they are; JOBS=2 is shorter where the machine is idle otherwise.
test-slow: JOBS = 1
test-slow: .venv/.installed-dev ## Run the tests that `make test` leaves out: slow ones and those with a browser
	$(pytest) -m "$(slow)" $(ARGS)

.PHONY: lint
lint: .venv/.installed-dev ## Check style, types and the direction of imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: check
check: lint test ## Everything that must hold before a change is handed in: lint and test

.PHONY: format
format: .venv/.installed-dev ## Rewrite the code in the common layout
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: install
install: .venv/.installed ## Only install, into .venv

.PHONY: clean
clean: ## Remove .venv and the caches; the studies under runs/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two stamps, written last: what `regatta` needs, and with it what the tests and checks need. Either is renewed when
# the dependencies change.
.venv/.installed: pyproject.toml constraints.txt
	@$(call install,.)
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt
	@$(call install,.[dev])
	@touch .venv/.installed $@

# A pip that was interrupted can leave a package that it believes complete, and which no later pip repairs. So
# .venv/.installing stands for as long as an installation has not ended well, and the next one starts afresh. The code
# here is compiled too: where PYTHONDONTWRITEBYTECODE is set, as in many images, every start would do it again.
define install
	set -e; \
	command -v "$(PYTHON)" >/dev/null || { \
		echo "make needs Python 3.11 or newer, but found no \`$(PYTHON)\`. Install it, or name yours: make PYTHON=/path/to/python" >&2; exit 1; }; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "\`$(PYTHON)\` must be Python 3.11 or newer, but is $$("$(PYTHON)" --version 2>&1). Name another one: make PYTHON=python3.12" >&2; exit 1; }; \
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "\`$(PYTHON)\` must have the modules venv and ensurepip. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	echo "Installing Regatta into .venv (a few minutes the first time; .venv/pip.log tells how far it is) ..."; \
	if [ -e .venv/.installing ]; then "$(PYTHON)" -m venv --clear .venv; else "$(PYTHON)" -m venv .venv; fi; \
	rm -f .venv/.installed .venv/.installed-dev; \
	touch .venv/.installing; \
	.venv/bin/python -m pip install --no-input --disable-pip-version-check -c constraints.txt -e '$(1)' >.venv/pip.log 2>&1 || { \
		tail -n 25 .venv/pip.log >&2; \
		echo "The installation failed: see above, or .venv/pip.log. The next call starts afresh." >&2; exit 1; }; \
	.venv/bin/python -m compileall -q models pipelines search tracking; \
	rm .venv/.installing
endef
