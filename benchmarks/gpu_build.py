"""Build the models of benchmarks/gpu_prepare.py with TensorRT-RTX on a machine without a GPU, and print engine sizes.

    pip install tensorrt-rtx-cu13
    python benchmarks/gpu_build.py output/gpu_models --capability SM86

The engines are not kept. A model that TensorRT-RTX cannot build is a line with the reason and exit code 2. Needs no
Paddle.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, List

import _checkout
import _gpu_models

from ppdet_repro.runtime.tensorrt_build import Sizes, build_engine, open_library
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.table import text_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("models", type=Path, help="folder that benchmarks/gpu_prepare.py wrote")
    add("--capability", default="SM86", help="compute capability of the GPU, such as SM89 (default: SM86)")
    add("--only", nargs="+", default=[], metavar="NAME", help="models to build (default: all)")
    add("--batch", type=int, help="only the variants of this batch (default: all)")
    flags = parser.parse_args()
    library = open_library()
    if not library.for_rtx:
        raise UserError(
            f"{library.product} needs a GPU to build; TensorRT-RTX does not, but tensorrt is preferred to it"
        )
    if not hasattr(library.module.ComputeCapability, flags.capability):
        raise UserError(f"--capability {flags.capability}: TensorRT-RTX {library.version} does not build for it")
    rows: List[List[Any]] = []
    for folder in sorted(path.parent for path in flags.models.glob("*/*/model.onnx")):
        size = json.loads((folder.parent / "facts.json").read_text(encoding="utf-8"))["size"]
        part, batch, precision = folder.name.rsplit("-", 2)
        wanted = not flags.only or folder.parent.name in flags.only
        if wanted and flags.batch in (None, int(batch[1:])):
            rows.append(
                [folder.parent.name, part, batch[1:], precision, *build(library, folder, size, flags.capability)]
            )
            print(*rows[-1], flush=True)
    print(f"{library.product} {library.version}, {flags.capability}")
    header = ["model", "part", "batch", "precision", "graph, MB", "engine, MB", "seconds", "remark"]
    print(text_table(header, rows, style="github"))
    if failed := [row for row in rows if row[-1]]:
        raise UserError(f"{len(failed)} of {len(rows)} graphs cannot be built")


def build(library: Any, folder: Path, size: List[int], capability: str) -> List[Any]:
    """Megabytes of a graph with its weights, those of its engine, and seconds; the reason why there is no engine."""
    graph = _gpu_models.complete(folder)
    weights = folder / "weights.bin"
    megabytes = (graph.stat().st_size + weights.stat().st_size) / 1e6
    fixed = Sizes((1, 1, 1), (size[0],) * 3, (size[1],) * 3)  # the shapes in the graph are fixed, too
    begun = time.perf_counter()
    try:
        engine = build_engine(library, graph, fixed, capabilities=[capability])
    except UserError as error:
        return [megabytes, None, None, str(error)]
    finally:
        weights.unlink()
    return [megabytes, len(engine) / 1e6, time.perf_counter() - begun, ""]


if __name__ == "__main__":
    run_command(main)
