# Two demos, `make demo` and `make translation-demo`, `make test`, and `make bench`, a short round of the
# benchmarks. Each sets itself up; they need Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo translation-demo test bench lint clean

# Each script of benchmarks/ that compares with transformers and needs nothing but itself.
BENCHMARKS = attention_cost training inference generation

demo: .venv/viz
	.venv/bin/python -m train.demos.agreement --output runs/demo

translation-demo: .venv/viz .venv/translation
	.venv/bin/python -m train.demos.translation --output runs/translation

test: .venv/test
	.venv/bin/python -m pytest

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
	rm -rf .venv runs build *.egg-info

# torch first, by its pin, so that nothing that needs it can choose another version.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch setuptools wheel
	touch $@

.venv/viz .venv/translation .venv/test .venv/dev: .venv/%: .venv/torch setup.py
	$(PIP) --no-build-isolation --editable ".[$*]"
	touch $@
