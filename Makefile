# make demo   generate data, train, evaluate, export, run the exported model: images and curves in output/demo/
# make test   ruff, mypy and pytest
# Both create the virtual environment .venv first; PYTHON=/path/to/python selects another Python for it.

VENV := .venv
export PYTHON

.PHONY: demo test lint venv slim tide clean

demo: venv
	$(VENV)/bin/python tools/demo.py

test: lint
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

venv:
	@tools/make_venv.sh $(VENV)

# --no-deps: PaddleSlim depends on opencv-python, which conflicts with opencv-python-headless.
slim: venv
	$(VENV)/bin/python -m pip install --constraint requirements.lock --editable '.[slim]' --no-build-isolation
	$(VENV)/bin/python -m pip install --no-deps paddleslim==2.6.0

# tidecv is for `tools/eval.py --tide`, and depends on opencv-python too.
tide: venv
	$(VENV)/bin/python -m pip install --constraint requirements.lock --editable '.[tide]' --no-build-isolation
	$(VENV)/bin/python -m pip install --no-deps tidecv==1.0.1

clean:
	rm -rf $(VENV) build dist *.egg-info output/demo .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
