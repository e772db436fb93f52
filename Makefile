# Two commands: `make demo` and `make test`. Each sets itself up; they need Python 3.11 and make.
PYTHON ?= python3.11
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lint clean

demo: .venv/viz
	.venv/bin/python -m train.demo --output runs/demo

test: .venv/test
	.venv/bin/python -m pytest

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv runs build *.egg-info

# torch first and by its pin: a range could bring a build with gigabytes of another device's code.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch setuptools wheel
	touch $@

.venv/viz .venv/test .venv/dev: .venv/%: .venv/torch setup.py
	$(PIP) --no-build-isolation --editable ".[$*]"
	touch $@
