PYTHON ?= python
INSTALL = $(PYTHON) -m pip install -q -c constraints.txt

.PHONY: demo test check

demo:   ## distil a student on real digits
	$(INSTALL) .
	$(PYTHON) examples/own_loop.py

test:   ## install for development and run the tests
	$(INSTALL) -e '.[dev]'
	$(PYTHON) -m pytest

check: test   ## what CI runs
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
