#!/bin/sh
# make_venv.sh DIRECTORY PADDLE: create a virtual environment with the packages of requirements-paddlePADDLE.lock and of
# requirements-no-deps.lock, and this package (editable). Does nothing if the environment is complete and was made from
# the same lock files, setup.py, pyproject.toml, checkout folder and PYTHON.
set -eu

venv=$1
paddle=$2
lock=requirements-paddle$paddle.lock
no_deps=requirements-no-deps.lock
state="$PWD ${PYTHON:-auto} $lock $(cat "$lock" "$no_deps" setup.py pyproject.toml | cksum)"
if [ "$(cat "$venv/.complete" 2>/dev/null)" = "$state" ]; then
    exit 0
fi

python=$(tools/find_python.sh "$paddle")
rm -f "$venv/.complete"
quiet=
[ -t 1 ] || quiet=--quiet
echo "== $venv: $("$python" --version) ($python), packages of $lock (about 1 GB on disk)"
"$python" -m venv --clear "$venv"
if ! "$venv/bin/python" -m pip install --disable-pip-version-check $quiet --requirement "$lock"; then
    version=$("$python" -c 'import platform; print(platform.python_version(), "on", platform.machine())')
    echo "error: pip could not install $lock: see its message above. It needs a network or a pip mirror," \
        "and a wheel of every package for Python $version" >&2
    exit 2
fi
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
"$venv/bin/python" -m pip check
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --requirement "$no_deps"
echo "$state" >"$venv/.complete"
