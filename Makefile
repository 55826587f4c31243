PYTHON ?= python
INSTALL = $(PYTHON) -m pip install -q -c constraints.txt

.PHONY: demo test check

demo:   ## compare four arms on real digits, and write a report
	$(INSTALL) .
	$(PYTHON) -m dotkd demo

test:   ## install for development and run the tests
	$(INSTALL) -e '.[dev]'
	$(PYTHON) -m pytest

check: test   ## fast tests, linter, formatter, types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
