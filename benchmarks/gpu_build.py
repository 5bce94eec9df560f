"""Build ONNX exports with TensorRT-RTX on a machine without a GPU, and print the sizes of the engines.

    pip install tensorrt-rtx-cu13
    python benchmarks/gpu_build.py output/benchmark/models --capability SM86    # the exports that benchmark.sh wrote
    python benchmarks/gpu_build.py output/gpu_models                            # those of benchmarks/gpu_prepare.py

Every folder below the given ones that has a model.onnx and an infer_cfg.yml is built for the sizes that
`ppdet-repro infer --engine=tensorrt` uses. The engines are not kept. A model that TensorRT-RTX cannot build is a line
with the reason, and exit code 2. Needs no Paddle.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, List, Optional, Tuple

import _checkout
import _gpu_models

from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.precision import only_errors
from ppdet_repro.runtime.tensorrt_build import Library, build_engine, open_library, usual_sizes
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.table import text_table

SIDES = (1, 640, 1280)  # the defaults of --trt_min_shape, --trt_opt_shape and --trt_max_shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folders", type=Path, nargs="+", help="folders of exports, or folders that contain some")
    add("--capability", default="SM86", help="compute capability of the GPU, such as SM89 (default: SM86)")
    add("--batch_size", type=at_least_one, default=1, metavar="N", help="largest batch (default: 1)")
    flags = parser.parse_args()
    library = open_library()
    if not library.for_rtx:
        raise UserError("TensorRT needs a GPU to build; uninstall it so that TensorRT-RTX, which does not, is used")
    if not hasattr(library.module.ComputeCapability, flags.capability):
        raise UserError(f"--capability {flags.capability}: TensorRT-RTX {library.version} does not build for it")
    folders = [path.parent for top in flags.folders for path in sorted(top.rglob("model.onnx"))]
    if not folders:
        raise UserError(f"there is no model.onnx in {flags.folders[0]}; ppdet-repro export --target onnx writes one")
    rows: List[List[Any]] = []
    for folder in folders:
        graph, engine, seconds, remark = build(library, folder, flags.batch_size, flags.capability)
        rows.append([f"{folder.parent.name}/{folder.name}", graph, engine, seconds, remark])
        print(*rows[-1], flush=True)
    print(f"{library.product} {library.version}, {flags.capability}, up to {flags.batch_size} images")
    print(text_table(["export", "MB", "engine, MB", "seconds", ""], rows, style="github"))
    if failed := [row for row in rows if row[-1]]:
        raise UserError(f"{len(failed)} of {len(rows)} graphs cannot be built")


def build(
    library: Library, folder: Path, batch_size: int, capability: str
) -> Tuple[float, Optional[float], Optional[float], str]:
    """Megabytes of a graph with its weights, those of its engine, and seconds; the reason why there is no engine."""
    seeded = (folder / "weights.json").is_file()
    graph = _gpu_models.complete(folder) if seeded else folder / "model.onnx"
    weights = folder / "weights.bin"
    megabytes = (graph.stat().st_size + (weights.stat().st_size if seeded else 0)) / 1e6
    with only_errors():
        sizes = usual_sizes(open_model_folder(folder, engine="tensorrt").preprocess, batch_size, SIDES)
    begun = time.perf_counter()
    try:
        engine = build_engine(library, graph, sizes, capabilities=[capability])
    except UserError as error:
        return megabytes, None, None, str(error)
    finally:
        if seeded:
            weights.unlink()
    return megabytes, len(engine) / 1e6, time.perf_counter() - begun, ""


if __name__ == "__main__":
    run_command(main)
