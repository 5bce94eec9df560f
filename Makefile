# make demo   generate data, train, evaluate, export, run the exported model: images and curves in output/demo/
# make test   ruff, mypy and pytest
# make docs   the documentation as a site in build/site; broken links end the build
# All three create a virtual environment first. PADDLE=2.6 or PADDLE=3.2 selects its Paddle: `make demo PADDLE=3.2`. The
# default version is in .venv, the other one beside it in .venv-paddleVERSION. PYTHON=/path/to/python selects its Python.

DEFAULT_PADDLE := 2.6
PADDLE ?= $(DEFAULT_PADDLE)
LOCK := requirements-paddle$(PADDLE).lock
VENV := .venv$(if $(filter-out $(DEFAULT_PADDLE),$(PADDLE)),-paddle$(PADDLE))
export PYTHON

ifeq ($(wildcard $(LOCK)),)
$(error PADDLE is '$(PADDLE)', but must be one of: $(patsubst requirements-paddle%.lock,%,$(wildcard requirements-paddle*.lock)))
endif

.PHONY: demo test lint pytest docs venv clean

demo: venv
	$(VENV)/bin/python tools/demo.py

test: lint pytest

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Threads that wait would otherwise take a processor from another worker of pytest.
pytest: export OMP_WAIT_POLICY = PASSIVE
pytest: venv
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

docs: venv
	$(VENV)/bin/mkdocs build --strict

venv:
	@tools/make_venv.sh $(VENV) $(PADDLE)

clean:
	rm -rf .venv .venv-paddle* build dist *.egg-info output/demo .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
