# Two demos, `make demo` and `make translation-demo`, `make test`, and `make bench`, a short round of the
# benchmarks. Each sets itself up; they need Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo translation-demo test test-newer bench lint clean

# Each script of benchmarks/ that needs nothing but itself.
BENCHMARKS = attention_cost decoding time_by_part training inference generation loading

demo: .venv/viz
	.venv/bin/python -m train.demos.agreement --output runs/demo

translation-demo: .venv/viz .venv/translation
	.venv/bin/python -m train.demos.translation --output runs/translation

# One process a core, each with one thread.
PYTEST = python -m pytest -n auto --dist worksteal

test: .venv/test
	.venv/bin/$(PYTEST)

# The same tests with newer versions than those of constraints.txt, in an environment of their own.
test-newer:
	$(PYTHON) -m venv .venv-newer
	.venv-newer/bin/python -m pip --disable-pip-version-check install --quiet \
		"torch==2.14.*" setuptools wheel
	.venv-newer/bin/python -m pip --disable-pip-version-check install --quiet \
		"transformers==5.24.*" --no-build-isolation --editable ".[test]"
	.venv-newer/bin/$(PYTEST)

# In .venv/test are transformers, to compare with, and matplotlib, to draw.
bench: .venv/test
	for name in $(BENCHMARKS); do \
		.venv/bin/python -m benchmarks.$$name --quick --out runs/bench || exit 1; \
	done

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv .venv-newer runs build *.egg-info

# torch first, by its pin, so that nothing that needs it can choose another version.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch setuptools wheel
	touch $@

.venv/viz .venv/translation .venv/test .venv/dev: .venv/%: .venv/torch setup.py
	$(PIP) --no-build-isolation --editable ".[$*]"
	touch $@
