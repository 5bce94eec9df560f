#!/usr/bin/env bash
# Measures the speed of .nb models on Android phones with adb and Paddle-Lite's benchmark_bin; see benchmark_arm.py and
# docs/deploy_run.md.
#
#   deploy/lite/benchmark_arm.sh --binary benchmark_bin --model pafnet_lite.nb            # all phones, both protocols
#   deploy/lite/benchmark_arm.sh --binary benchmark_bin --model pafnet_lite.nb --dry-run  # only print the commands
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-}"
if [ -z "$python" ]; then
  python="$here/../../.venv/bin/python"
  [ -x "$python" ] || python="$(command -v python3 || true)"
fi
if [ -z "$python" ]; then
  echo "error: there is no python3; set PYTHON=/path/to/python" >&2
  exit 2
fi
root="$(cd "$here/../.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$here/benchmark_arm.py" "$@"
