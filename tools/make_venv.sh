#!/bin/sh
# make_venv.sh DIRECTORY: a virtual environment with requirements.lock and this package (editable).
# Does nothing when it is complete and of the same lock file, package files, place and PYTHON.
set -eu

venv=$1
state="$PWD ${PYTHON:-auto} $(cat requirements.lock setup.py pyproject.toml | cksum)"
if [ "$(cat "$venv/.complete" 2>/dev/null)" = "$state" ]; then
    exit 0
fi

python=$(tools/find_python.sh)
rm -f "$venv/.complete"
quiet=
[ -t 1 ] || quiet=--quiet
echo "== $venv: $("$python" --version) ($python), packages of requirements.lock (about 1 GB on disk)"
"$python" -m venv --clear "$venv"
if ! "$venv/bin/python" -m pip install --disable-pip-version-check $quiet --requirement requirements.lock; then
    echo "error: pip could not install requirements.lock: see its message above; a network or a pip mirror is" \
        "needed, and Python $("$python" -c 'import platform; print(platform.python_version(), platform.machine())')" \
        "must have a wheel of everything" >&2
    exit 2
fi
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
"$venv/bin/python" -m pip check
echo "$state" >"$venv/.complete"
