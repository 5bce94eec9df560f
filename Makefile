# make demo   generate data, train, evaluate, export, infer: pictures and curves in output/demo/
# make test   lint and tests
# Both first make the virtual environment .venv; PYTHON=/path/to/python chooses another Python.

VENV := .venv
export PYTHON

.PHONY: demo test lint venv slim tide clean

demo: venv
	$(VENV)/bin/python tools/demo.py

test: lint
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: venv
	$(VENV)/bin/ruff check .

venv:
	@tools/make_venv.sh $(VENV)

# PaddleSlim pins opencv-python, which clashes with opencv-python-headless: hence --no-deps.
slim: venv
	$(VENV)/bin/python -m pip install --constraint requirements.lock --editable '.[slim]' --no-build-isolation
	$(VENV)/bin/python -m pip install --no-deps paddleslim==2.6.0

# So does tidecv, for `tools/eval.py --tide`.
tide: venv
	$(VENV)/bin/python -m pip install --constraint requirements.lock --editable '.[tide]' --no-build-isolation
	$(VENV)/bin/python -m pip install --no-deps tidecv==1.0.1

clean:
	rm -rf $(VENV) build dist *.egg-info output/demo .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
