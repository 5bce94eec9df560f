#!/bin/sh
# Print the path of the Python to use: $PYTHON if it is set, else 3.10 (the tested version), else 3.11, 3.12 or 3.9;
# each is searched on PATH, then in pyenv. Notes about the choice go to stderr. The exit code is 2 if none is found.
set -u

usable() {  # usable COMMAND: it runs (a pyenv shim may not), is 3.9 to 3.12 and can create virtual environments
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

candidates() {  # one command or path per line, in order of preference
    for version in 3.10 3.11 3.12 3.9; do
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
        echo "error: PYTHON=$PYTHON does not run, is not Python 3.9 to 3.12, or lacks venv and ensurepip" >&2
        exit 2
    fi
    found=$PYTHON
else
    found=$(candidates | while read -r command; do usable "$command" && echo "$command" && break; done)
    if [ -z "$found" ]; then
        echo "error: no Python 3.9 to 3.12 with venv and ensurepip on PATH or in pyenv; install Python 3.10" \
            "(Debian, Ubuntu: with python3-venv) or run make PYTHON=/path/to/python3.10" >&2
        exit 2
    fi
fi

version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
    3.10) ;;
    3.9) echo "note: Python 3.9 works without the extra onnx (it has no wheel); 3.10 is the tested version" >&2 ;;
    *) echo "note: Python $version works without the extra lite (it has no wheel); 3.10 is the tested version" >&2 ;;
esac
machine=$("$found" -c 'import platform; print(platform.system(), platform.machine())')
if [ "$machine" != "Linux x86_64" ]; then
    echo "note: $machine is not tested, and PaddlePaddle 2.6.2 may have no wheel for it" >&2
fi
"$found" -c 'import sys; print(sys.executable)'
