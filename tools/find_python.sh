#!/bin/sh
# find_python.sh PADDLE: print the path of the Python to use with that version of Paddle: $PYTHON if it is set, else
# 3.10 (the tested version), else 3.11, 3.12, 3.13 (Paddle 3 only) or 3.9; each is searched on PATH, then in pyenv.
# Notes about the choice go to stderr. The exit code is 2 if none is found.
set -u

paddle=$1
newest=13
others="; Python 3.10 is the tested version"
if [ "$paddle" = 2.6 ]; then
    newest=12
    others="; Python 3.13 needs PADDLE=3.2"
fi

usable() {  # usable COMMAND: it runs (a pyenv shim may not), has the right version and can create virtual environments
    "$1" -c "import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null
}

candidates() {  # one command or path per line, in order of preference
    for version in 3.10 3.11 3.12 3.13 3.9; do
        command -v "python$version"
        for path in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            echo "$path"
        done
    done
    command -v python3
    command -v python
}

if [ -n "${PYTHON:-}" ]; then
    if ! usable "$PYTHON"; then
        echo "error: PYTHON=$PYTHON does not run, is not Python 3.9 to 3.$newest, or lacks venv and ensurepip$others" >&2
        exit 2
    fi
    found=$PYTHON
else
    found=$(candidates | while read -r command; do usable "$command" && echo "$command" && break; done)
    if [ -z "$found" ]; then
        echo "error: no Python 3.9 to 3.$newest with venv and ensurepip on PATH or in pyenv; install Python 3.10" \
            "(Debian, Ubuntu: with python3-venv) or run make PYTHON=/path/to/python3.10$others" >&2
        exit 2
    fi
fi

version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
without=
case $paddle-$version in
    2.6-3.11 | 2.6-3.12) without=", without the extra lite (it has no wheel)" ;;
    *-3.13) without=", without ONNX export (paddle2onnx has no wheel)" ;;
esac
if [ "$version" != 3.10 ]; then
    echo "note: Python $version is used$without; 3.10 is the tested version" >&2
fi
machine=$("$found" -c 'import platform; print(platform.system(), platform.machine())')
if [ "$machine" != "Linux x86_64" ]; then
    echo "note: $machine is not tested, and PaddlePaddle $paddle may have no wheel for it" >&2
fi
"$found" -c 'import sys; print(sys.executable)'
