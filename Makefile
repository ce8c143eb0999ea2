# make demo    train on real digits, print the table, write runs/demo/figure.png and runs/demo/results.json
# make test    the whole test suite with branch coverage
# make lint    ruff and mypy          make docs    the documentation, into docs/_build/html
# make benchmark    time and memory, into benchmarks/results; give it an idle machine
# make torch-2.6.0    the tests of the library with another torch, in an environment of its own
# make mutation    plants errors and makes a sample of small changes, and runs the tests of each; an hour or two, resumable
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint docs benchmark mutation clean

demo: $(VENV)/examples
	$(RUN) examples/mnist.py --out runs/demo --overwrite

test: $(VENV)/test
	$(RUN) -m pytest -q -n auto --dist loadfile --cov --cov-report=term --cov-fail-under=95

# Those that need no example, and no compiler.
LIBRARY := $(filter-out $(addprefix tests/test_,example% compile% docs% readme% benchmarks% planted% distributed% training% fuzz% device%), \
	$(wildcard tests/test_*.py))

torch-%:
	$(PYTHON) -m venv $(VENV)-torch-$*
	grep -E '^(numpy|torchdiffeq|hypothesis|pytest|scikit-learn|scipy)==' constraints.txt > $(VENV)-torch-$*/constraints.txt
	$(VENV)-torch-$*/bin/python -m pip install --quiet -c $(VENV)-torch-$*/constraints.txt -e ".[testing,scores]" \
		"torch==$*" pytest-xdist safetensors pot
	$(VENV)-torch-$*/bin/python -m pytest -q -n auto --dist loadfile $(LIBRARY)

lint: $(VENV)/test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy --strict latentflow pytest_latentflow.py

docs: $(VENV)/docs
	$(RUN) -m sphinx -E -W --keep-going -q -b html docs docs/_build/html

benchmark: $(VENV)/examples
	$(RUN) benchmarks

mutation: $(VENV)/mutation
	$(RUN) mutation/planted.py
	$(RUN) mutation/sample.py

# One stamp for each extra; installed anew when the dependencies change.
$(VENV)/%: pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-torch-* docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
