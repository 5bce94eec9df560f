"""Write the models that benchmarks/gpu.py measures: graphs, an input each, and the outputs of ONNX Runtime on the CPU.

    python benchmarks/gpu_prepare.py --output output/gpu_models                    # the papers' models
    python benchmarks/gpu_prepare.py --configs configs/yolof/yolof_r18vd_bccd.yml --output output/gpu_models

Each model is exported alone (without decoding, as papers time it) and whole, in float32 and FP16, for each batch, at
the size to which its config resizes. Its weights are random. Those of at least 4096 numbers are replaced by numbers of
the same spread made from seeds, and left out of the files, so that the folder is small.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

import _checkout
import _gpu_models
import numpy as np

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command

CONFIGS = [
    "ppyolo/ppyolov2_r50vd_dcn_365e_coco",
    "ppyolo/ppyolov2_r101vd_dcn_365e_coco",
    "yolof/yolof_r50_c5_1x_coco",
    "ttfnet/pafnet_10x_coco",
    "ttfnet/pafnet_lite_mobilenet_v3_20x_coco",
    "sapd/sapd_r50_1x_coco",
]
PARTS = {"network": "true", "whole": "false"}  # -> export.benchmark
LARGE = 4096  # numbers from which on weights are made from a seed
STRIDE = 32
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    configs = [f"{ROOT}/configs/{name}.yml" for name in CONFIGS]
    add("--configs", nargs="+", default=configs, metavar="FILE", help="default: the papers' models")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write; a model in it is kept")
    add("--batches", type=at_least_one, nargs="+", default=[1, 8], metavar="N", help="default: 1 8")
    flags = parser.parse_args()
    for config in flags.configs:
        folder = flags.output / Path(config).stem
        if folder.is_dir():
            print(f"{folder} exists")
            continue
        partial = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        prepare(config, partial, flags.batches)
        partial.rename(folder)
        print(f"{folder}: {sum(file.stat().st_size for file in folder.rglob('*')) / 1e6:.1f} MB", flush=True)


def prepare(config: str, folder: Path, batches: List[int]) -> None:
    """Write all variants of one model. UserError if it cannot be exported."""
    from ppdet_repro.engine.export.half import to_half

    recorded: Dict[str, Any] = {}
    for part in PARTS:
        for batch in batches:
            with tempfile.TemporaryDirectory() as work:
                export, size = export_fixed(config, Path(work), part, batch)
                seeds = seed_weights(export / "model.onnx")
                if batch == batches[0]:
                    inputs = _gpu_models.inputs_for(export, size, batch)
                    recorded.update(record(part, run_on_cpu(export / "model.onnx", inputs)))
                for precision in ("fp32", "fp16"):
                    target = folder / f"{part}-b{batch}-{precision}"
                    target.mkdir(parents=True)
                    for name in ("model.onnx", "infer_cfg.yml"):
                        shutil.copy(export / name, target / name)
                    if precision == "fp16":
                        to_half(target / "model.onnx")
                    leave_out(target, seeds)
    facts = {"size": list(size), "batches": batches, "config": str(Path(config).name)}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    np.savez_compressed(folder / "recorded.npz", **recorded)


def export_fixed(config: str, work: Path, part: str, batch: int) -> Tuple[Path, Tuple[int, int]]:
    """Export one part of a config's model with random weights, for a fixed batch and size. The folder, and the size."""
    import paddle

    from ppdet_repro import build_model, export_model, load_config
    from ppdet_repro.engine.export.half import simplify
    from ppdet_repro.engine.export.infer_cfg import read_input

    paddle.set_device("cpu")
    paddle.seed(0)
    cfg = load_config(config, [f"export.benchmark={PARTS[part]}", "pretrain_weights=null"])
    given = read_input(cfg)
    steps = {step["type"]: step for step in given.steps}
    free = given.shape[2] is None
    if free and "Resize" not in steps:
        raise UserError(f"{config}: TestReader has neither a fixed size nor Resize, so the input size is unknown")
    target: Any = steps["Resize"]["target_size"] if free else given.shape[2:]
    stride = steps.get("PadStride", {}).get("stride", STRIDE)
    height, width = (-(-side // stride) * stride for side in target)
    folder = export_model(build_model(cfg), cfg, work, "onnx", batch=batch)
    if free:
        fix_size(folder / "model.onnx", height, width)
        simplify(folder / "model.onnx")
    return folder, (height, width)


def fix_size(path: Path, height: int, width: int) -> None:
    """Fix the size of the image that an ONNX file takes."""
    import onnx

    model = onnx.load(str(path))
    (image,) = [entry for entry in model.graph.input if entry.name == "image"]
    for axis, side in ((2, height), (3, width)):
        image.type.tensor_type.shape.dim[axis].dim_value = side
    onnx.save(model, str(path))


def seed_weights(path: Path) -> Dict[str, Dict[str, Any]]:
    """Replace the large weights of an ONNX file in place, and return the entries of weights.json by name. The seed
    comes from the old content, so that both parts of a model get the same weights."""
    import onnx

    model, entries = onnx.load(str(path)), {}
    computed = {name for node in model.graph.node for name in node.output}
    for output in [output for output in model.graph.output if output.name not in computed]:
        model.graph.output.remove(output)  # anchors, which are constant at a fixed size
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < LARGE:
            continue
        old = onnx.numpy_helper.to_array(tensor)
        if not old.std() > 10 * abs(old.mean()):
            continue  # not weights: coordinates of a grid, or factors of a batch norm
        seed = int.from_bytes(hashlib.sha256(old.tobytes()).digest()[:6], "big")
        entry = {"seed": seed, "count": int(old.size), "limit": float(np.sqrt(3) * old.std()), "type": "float32"}
        new = _gpu_models.uniform(seed, old.size, entry["limit"]).reshape(old.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
        entries[tensor.name] = entry
    onnx.save(model, str(path))
    return entries


def leave_out(folder: Path, seeds: Dict[str, Dict[str, Any]]) -> None:
    """Take the weights that seeds give out of model.onnx, and describe them in weights.json."""
    import onnx

    model, entries, offset = onnx.load(str(folder / "model.onnx")), [], 0
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
    for tensor in model.graph.initializer:
        if tensor.name not in seeds or tensor.data_type not in types:
            continue
        data = onnx.numpy_helper.to_array(tensor).tobytes()
        entry = {**seeds[tensor.name], "type": types[tensor.data_type], "offset": offset, "bytes": len(data)}
        if _gpu_models.generate(entry) != data:
            continue  # the conversion changed them: they stay in the file
        for field in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", offset), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
        entries.append(entry)
        offset += -(-len(data) // _gpu_models.ALIGNMENT) * _gpu_models.ALIGNMENT
    onnx.save(model, str(folder / "model.onnx"))
    digest = hashlib.sha256(_gpu_models.joined(entries)).hexdigest()
    (folder / "weights.json").write_text(json.dumps({"sha256": digest, "tensors": entries}), encoding="utf-8")


def run_on_cpu(path: Path, inputs: Dict[str, np.ndarray]) -> List[np.ndarray]:
    """The outputs of ONNX Runtime."""
    from ppdet_repro.runtime.networks import OnnxNetwork

    return OnnxNetwork(path, threads=2).run(inputs)


def record(part: str, outputs: List[np.ndarray]) -> Dict[str, np.ndarray]:
    """What is kept of the first image's outputs: a sample of the network's, and the best boxes of the whole."""
    if part == "whole":
        return {"boxes": _gpu_models.candidates(*outputs)[: _gpu_models.BEST]}
    return {f"output{i}": _gpu_models.sample(output) for i, output in enumerate(outputs)}


if __name__ == "__main__":
    run_command(main)
