# All commands for users and reviewers. All paths are relative to this folder, so its own path may contain blanks.
PYTHON ?= python3
BIN := .venv/bin
# Python uses UTF-8 in every locale.
export PYTHONUTF8 = 1

.PHONY: app test test-engines test-space test-gradio torture figures lock audit licences lint train screenshots clean

app: .venv/app.stamp  ## tell stories: http://127.0.0.1:7860
	$(BIN)/python app.py $(ARGS)

train: .venv/train.stamp  ## make train ARGS="--preset pocket"
	$(BIN)/python -m train $(ARGS)

# Runs two test files at a time, because the page's tests wait for the browser half of the time. ARGS="-n 0" runs one.
BY_TWO := -n 2 --dist loadfile --no-loadscope-reorder
test: lint  ## everything that a change must pass
	$(BIN)/python -m pytest -rs $(BY_TWO) $(ARGS)

# pip builds this package from source, which takes minutes. ENGINE=xllamacpp installs llama.cpp as a wheel instead.
ENGINE ?= llama-cpp-python==0.3.36
test-engines: .venv/dev.stamp  ## check that other engines tell the same stories
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(ENGINE)
	$(BIN)/python -m pytest -rs tests/engines $(ARGS)

# Installs the packages of a Space as the Hub does, for each Python that is installed here.
test-space: .venv/dev.stamp  ## check that a Space builds from the pushed files and tells
	$(BIN)/python -m pytest -rs tests/fresh $(ARGS)

# Tests the page in an environment of its own, which has the packages of .venv too. GRADIO=6.30.0 takes that version.
PAGE_TESTS := $(addprefix tests/test_,page.py api.py request_checks.py turns.py fuzz.py words.py gradio_fixes.py browser.py)
OTHER := .cache/gradio
test-gradio: .venv/dev.stamp  ## check the page with the newest Gradio 6 and the newest packages that it needs
	$(BIN)/python -m venv --clear $(OTHER)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(echo $(OTHER)/lib/python*/site-packages)/venv.pth
	grep -v '^gradio' requirements-page.txt > $(OTHER)/others.txt
	$(OTHER)/bin/python -m pip install --disable-pip-version-check --quiet --upgrade --upgrade-strategy eager \
	    -r $(OTHER)/others.txt "gradio[mcp]$(if $(GRADIO),==$(GRADIO),<7)"
	$(OTHER)/bin/python -c 'import gradio; print("Gradio", gradio.__version__)'
	$(OTHER)/bin/python -m pytest -rs $(BY_TWO) $(PAGE_TESTS) $(ARGS)

# With RECORD=1 the tests write their rows of docs/reliability.md.
FAULTS := tests/test_fuzz.py tests/test_request_checks.py tests/test_turns.py tests/test_untrusted.py
torture: .venv/dev.stamp  ## random clicks on the page for half an hour, its speeds, and all faults in full
	TORTURE=1 MONKEY_SECONDS=1800 FUZZ_REQUESTS=2000 $(BIN)/python -m pytest -rs -s -o faulthandler_timeout=3600 \
	    tests/test_monkey.py $(FAULTS) tests/torture $(ARGS)

# Checks the recorded figures against the weights, on the first 100 stories: make figures DATA=valid.txt
figures: .venv/dev.stamp
	$(BIN)/python -m train.evaluate artifacts/* --data $(DATA) --first 100 --check

# Tools that check the project from outside, in an environment of their own.
TOOLS := .cache/tools/bin
$(TOOLS)/uv:
	$(PYTHON) -m venv .cache/tools
	$(TOOLS)/python -m pip install --disable-pip-version-check --quiet uv==0.13.9 pip-audit==2.10.1 pip-licenses==5.5.5

# Keeps the versions that are locked and allowed. ARGS="--upgrade-package gradio" takes the newest Gradio 6.
lock: $(TOOLS)/uv  ## update requirements.lock: all packages of requirements.txt, with hashes
	$(TOOLS)/uv pip compile requirements.txt --quiet --generate-hashes --no-annotate --output-file requirements.lock \
	    --python-version 3.12 --python-platform x86_64-unknown-linux-gnu --custom-compile-command "make lock" $(ARGS)

audit: $(TOOLS)/uv  ## check these packages for known vulnerabilities
	$(TOOLS)/pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict

licences: $(TOOLS)/uv .venv/dev.stamp  ## update docs/licences.md
	sed -i '/^|/d' docs/licences.md
	$(TOOLS)/pip-licenses --python $(BIN)/python --from mixed --with-system --no-version --format markdown \
	    --packages $$(sed -n 's/==.*//p' requirements.lock) >> docs/licences.md

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

screenshots: .venv/dev.stamp  ## docs/page-*.png, taken in Chromium with the models of artifacts/
	PYTHONPATH=. $(BIN)/python tests/screenshots.py

# The virtual environment, updated when the requirements change.
.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

# Of the versions of Gradio that requirements.txt allows, this installs the one that the tests have passed with.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet \
    "$$(grep -o '^gradio==[^ ]*' requirements.lock)" -r

# Python compiles the modules that the page imports at its first start. To compile all of them here would take longer.
.venv/app.stamp: requirements-page.txt requirements.lock | .venv/bin/python
	$(INSTALL) requirements-page.txt --no-compile
	touch $@

.venv/train.stamp: requirements.txt requirements.lock | .venv/bin/python
	$(INSTALL) requirements.txt
	touch .venv/app.stamp $@

.venv/dev.stamp: requirements.txt requirements-dev.txt requirements.lock | .venv/bin/python
	$(INSTALL) requirements-dev.txt
	touch .venv/app.stamp .venv/train.stamp $@

# Removes the checkpoints of finished runs too. An unfinished run needs its checkpoint to go on.
clean:  ## remove everything that these commands made, except trained models
	for file in artifacts/.*.run/checkpoint.safetensors; do \
	    if grep -aqs 'finished\\": true' "$$file"; then rm -rf "$${file%/*}"; fi; done
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis screenshots
	find . -name __pycache__ -prune -exec rm -rf {} +
