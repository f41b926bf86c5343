# Everything a user or a reviewer types. Paths with blanks work: all paths below are relative to this folder.
PYTHON ?= python3
BIN := .venv/bin
# Whatever the locale.
export PYTHONUTF8 = 1

.PHONY: app test test-engines test-space torture figures lock audit licences lint train screenshots clean

app: .venv/app.stamp  ## tell stories: http://127.0.0.1:7860
	$(BIN)/python app.py $(ARGS)

train: .venv/dev.stamp  ## make train ARGS="--preset pocket"
	$(BIN)/python -m train $(ARGS)

# Two files at a time: half of a test of the page is waiting for the browser. One by one with ARGS="-n 0".
test: lint  ## everything that a change must pass
	$(BIN)/python -m pytest -rs -n 2 --dist loadfile $(ARGS)

# Built from source, which takes minutes; ENGINE=xllamacpp is llama.cpp as a ready-made wheel.
ENGINE ?= llama-cpp-python==0.3.36
test-engines: .venv/dev.stamp  ## do other engines tell the same stories?
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(ENGINE)
	$(BIN)/python -m pytest -rs tests/engines $(ARGS)

# The Hub installs the packages of a Space; so does this, with the Pythons that are there.
test-space: .venv/dev.stamp  ## does a Space build from what is pushed, and tell?
	$(BIN)/python -m pytest -rs tests/fresh $(ARGS)

# With RECORD=1 the tests write their rows of docs/reliability.md.
FAULTS := tests/test_fuzz.py tests/test_request_checks.py tests/test_fair_queue.py tests/test_untrusted.py
torture: .venv/dev.stamp  ## half an hour of a monkey on the page, its speeds, and faults of every kind in full
	TORTURE=1 MONKEY_SECONDS=1800 FUZZ_REQUESTS=2000 $(BIN)/python -m pytest -rs -s -o faulthandler_timeout=3600 \
	    tests/test_monkey.py $(FAULTS) tests/torture $(ARGS)

# Are the recorded figures those of the weights? On the first 100 stories: make figures DATA=valid.txt
figures: .venv/dev.stamp
	$(BIN)/python -m train.evaluate artifacts/* --data $(DATA) --first 100 --check

# Tools that look at the project from outside, and are no part of it.
TOOLS := .cache/tools/bin
$(TOOLS)/uv:
	$(PYTHON) -m venv .cache/tools
	$(TOOLS)/python -m pip install --disable-pip-version-check --quiet uv==0.13.9 pip-audit==2.10.1 pip-licenses==5.5.5

lock: $(TOOLS)/uv  ## renew requirements.lock: all packages of the Space, with hashes
	$(TOOLS)/uv pip compile requirements.txt --quiet --generate-hashes --no-annotate --output-file requirements.lock \
	    --python-version 3.12 --python-platform x86_64-unknown-linux-gnu --custom-compile-command "make lock"

audit: $(TOOLS)/uv  ## has any of them a known vulnerability?
	$(TOOLS)/pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict

licences: $(TOOLS)/uv .venv/dev.stamp  ## renew docs/licences.md
	sed -i '/^|/d' docs/licences.md
	$(TOOLS)/pip-licenses --python $(BIN)/python --from mixed --with-system --no-version --format markdown \
	    --packages $$(sed -n 's/==.*//p' requirements.lock) >> docs/licences.md

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

screenshots: .venv/dev.stamp  ## docs/page-*.png, taken in Chromium with the models of artifacts/
	PYTHONPATH=. $(BIN)/python tests/screenshots.py

# The virtual environment, renewed when the requirements change.
.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/app.stamp: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	touch $@

.venv/dev.stamp: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements-dev.txt
	touch $@ .venv/app.stamp

clean:  ## all that these commands made, apart from trained models
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis screenshots
	find . -name __pycache__ -prune -exec rm -rf {} +
