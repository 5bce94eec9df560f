#!/usr/bin/env bash
# Time every model on every engine and precision that this machine has. The tables (CSV, Markdown) and a plot go to
# output/benchmark/. The small models take at most 15 minutes on two CPU cores. See docs/deploy_run.md.
#
#   ./benchmark.sh                  # small models, random weights
#   ./benchmark.sh --set full       # the papers' models
#   ./benchmark.sh --model_dir output_inference/yolof_r50_c5_1x_coco --eval_json val.json --image_dir val2017
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-}"
if [ -z "$python" ]; then
  python="$here/.venv/bin/python"
  [ -x "$python" ] || python="$(command -v python3 || true)"
fi
if [ -z "$python" ]; then
  echo "error: there is no python3; run make venv, or set PYTHON=/path/to/python" >&2
  exit 2
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$here/deploy/benchmark/run.py" "$@"
