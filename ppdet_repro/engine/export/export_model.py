"""Export: a detector as a Paddle inference model, as ONNX or for Paddle-Lite, with the infer_cfg.yml of
PaddleDetection's deployment."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Union

import numpy as np
import paddle
import yaml
from paddle import nn
from paddle.static import InputSpec

from ppdet_repro.core.config import Config, ExportSettings, build
from ppdet_repro.data.transform.normalize import NormalizeImage
from ppdet_repro.data.transform.preprocess import from_list, to_list
from ppdet_repro.engine.export.converters import to_lite, to_onnx
from ppdet_repro.engine.export.fold import fold_batch_norms, fold_fusions
from ppdet_repro.engine.export.grid_sample_dcn import with_grid_samples
from ppdet_repro.engine.export.verify import verify
from ppdet_repro.engine.export.wrappers import DecodedBoxes, FinalBoxes, NormalizedInside, RawOutputs
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.paddle_private.bias_fusion import remove_bias_reshapes
from ppdet_repro.paddle_private.program import read_program
from ppdet_repro.slim.qat import to_int8, without_clipping
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_folder
from ppdet_repro.utils.logger import get_logger

# architecture -> its name in deployment code, and the smallest subgraph that TensorRT should take
ARCHITECTURES = {
    "YOLOF": ("YOLOF", 40),
    "YOLOv3": ("YOLO", 3),
    "TTFNet": ("TTFNet", 60),
    "RetinaNet": ("RetinaNet", 40),
    "SAPD": ("SAPD", 40),
}

Quantise = Callable[[Path, Callable[[str], Mapping[str, np.ndarray]]], None]
EXAMPLE_SIZE = (128, 128)  # pixels of the image that shows which layers follow each other


class NetworkInput(NamedTuple):
    """What the TestReader section says of the network's input.

    `shape` [B, 3, H, W] with None for free sizes; `steps`: the transforms after decoding, as in
    infer_cfg.yml; `eager_steps`: the same for the model itself, which does not normalise; `normalize`: set if the
    exported network does.
    """

    shape: List[Optional[int]]
    steps: List[Dict[str, Any]]
    eager_steps: List[Dict[str, Any]]
    normalize: Optional[NormalizeImage]


def export_model(
    detector: Detector,
    cfg: Config,
    output_dir: Union[str, Path] = "output_inference",
    target: str = "paddle",
    precision: str = "fp32",
    verify_on: Sequence[str] = (),
    quantise: Optional[Quantise] = None,
) -> Path:
    """Write `output_dir/<config's name>` (for onnx and lite with that word behind the name) and return it.

    | target | files beside infer_cfg.yml                                       | ends in                       |
    |--------|------------------------------------------------------------------|-------------------------------|
    | paddle | model.pdmodel, model.pdiparams                                   | boxes, or less: see `wrap`    |
    | onnx   | model.onnx; deformable convolutions are made of grid_sample      | decoded boxes; NMS is outside |
    | lite   | model_arm.nb in the `precision`, model_x86.nb in it (fp16: fp32) | decoded boxes; NMS is outside |

    Of BiFPN's fusion the Paddle-Lite files have the weights as numbers. `quantise` replaces the float32 model in a
    folder by an int8 one, given the function that reads an image for it (see `PTQ`); what was trained with `slim: QAT`
    is exported in int8, too.

    The section `export` of the config decides what the model contains (`ExportSettings`), TestReader what it
    takes. `verify_on`: images on which the export must agree with the detector, see `verify`.

    Nothing is there before all of it is, and an older export of that name stays until then. UserError if the
    architecture has no name in deployment, TestDataset's classes are not the model's, the target cannot have such a
    model, a converter fails, the export does not agree, or writing fails.
    """
    if cfg.run.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{cfg.path}: cannot export architecture {cfg.run.architecture}; these can be: {known}")
    if cfg.run.slim == "QAT":
        if verify_on:
            raise UserError("--verify: an int8 model is not its float32 one; compare their AP (deploy/python/infer.py)")
        detector, quantise = without_clipping(detector), to_int8
    network_input = read_input(cfg)
    if target == "lite":
        network_input = fixed_input(network_input, cfg)
    settings = cfg.run.export if target == "paddle" else replace(cfg.run.export, nms=False)
    content = infer_config(cfg, network_input, read_labels(cfg))
    if settings.post_process and not settings.nms and not settings.benchmark:
        content["PostProcess"] = suppression(detector)
    folder_of_all = Path(output_dir) / (cfg.name if target == "paddle" else f"{cfg.name}_{target}")
    was_training = detector.training
    detector.eval()
    try:
        exported = folded(detector) if settings.fuse_conv_bn else detector
        if target == "onnx":
            exported = with_grid_samples(exported)
        elif target == "lite":
            exported = fold_fusions(exported)
        network = wrap(exported, settings, network_input.normalize)
        with atomic_folder(folder_of_all) as folder:
            save_network(network, network_input.shape, folder / "model")
            (folder / "infer_cfg.yml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            if quantise is not None:
                preprocess = from_list(network_input.steps)
                quantise(folder, lambda file: preprocess([file])._asdict())
            if target != "paddle":
                convert(folder, target, precision)
            if verify_on:
                found = verify(detector, folder, target, precision, network_input.eager_steps, verify_on)
                get_logger().info(f"{folder_of_all} agrees with the eager model\n{found.table()}")
    except OSError as error:
        raise UserError(f"cannot write the export to {folder_of_all}: {error.strerror or error}") from error
    finally:
        if was_training:
            detector.train()
    get_logger().info(f"exported to {folder_of_all}")
    return folder_of_all


def convert(folder: Path, target: str, precision: str) -> None:
    """Replace the Paddle model in a folder by that of another target."""
    program, parameters = folder / "model.pdmodel", folder / "model.pdiparams"
    if target == "onnx":
        to_onnx(program, parameters, folder / "model.onnx")
    else:
        to_lite(program, parameters, folder / "model_arm.nb", "arm", precision)
        to_lite(program, parameters, folder / "model_x86.nb", "x86", "fp32" if precision == "fp16" else precision)
    for file in folder.glob("model.pd*"):
        file.unlink()


def suppression(detector: Detector) -> Dict[str, Any]:
    """The entry `PostProcess` of infer_cfg.yml: what comes after decoded boxes, and its settings."""
    suppress = detector.post_process.suppress
    component = getattr(suppress, "__self__", suppress)  # a decoder that selects itself gives a method
    return {"type": type(component).__name__, **component.settings}


def folded(detector: Detector) -> Detector:
    """A copy of the detector with its batch norms folded into its convolutions."""
    example = paddle.zeros([1, 3, *EXAMPLE_SIZE])
    return fold_batch_norms(detector, lambda network: network.raw(example))


def wrap(detector: Detector, settings: ExportSettings, normalize: Optional[NormalizeImage] = None) -> nn.Layer:
    """The layer to export: raw outputs, decoded or final boxes, with the normalisation inside if given."""
    if settings.benchmark or not settings.post_process:
        network: nn.Layer = RawOutputs(detector)
    elif not settings.nms:
        network = DecodedBoxes(detector)
    else:
        network = FinalBoxes(detector)
    if normalize is not None:
        network = NormalizedInside(network, normalize)
    network.eval()
    return network


def save_network(network: nn.Layer, image_shape: Sequence[Optional[int]], prefix: Path) -> None:
    """Write prefix.pdmodel and prefix.pdiparams with the inputs image, im_shape and scale_factor, less those
    that no output depends on."""
    batch = image_shape[0]
    spec = {
        "image": InputSpec(list(image_shape), "float32", "image"),
        "im_shape": InputSpec([batch, 2], "float32", "im_shape"),
        "scale_factor": InputSpec([batch, 2], "float32", "scale_factor"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Paddle's advice to writers of static graphs
        traced = paddle.jit.to_static(network, input_spec=[spec], full_graph=True).forward
        needed = needed_variables(traced.main_program, [output.name for output in traced.outputs])
        used = {name: spec[name] for name in spec if name in needed}
        paddle.jit.save(network, str(prefix), input_spec=None if used == spec else [used])
    file = prefix.with_suffix(".pdmodel")
    program = read_program(file)
    remove_bias_reshapes(program)
    file.write_bytes(program.SerializeToString())


def needed_variables(program: paddle.static.Program, outputs: Sequence[str]) -> Set[str]:
    """The names of all variables that the outputs are computed from."""
    needed = set(outputs)
    for operator in reversed(program.global_block().ops):
        if needed.intersection(operator.output_arg_names):
            needed.update(operator.input_arg_names)
    return needed


def read_input(cfg: Config) -> NetworkInput:
    """The TestReader section, as deployment needs it. UserError if it is missing, if a transform has no
    counterpart in deployment, or if `inputs_def.image_shape` is not one."""
    reader = build(cfg, "TestReader")
    if not reader.preprocess:
        raise UserError(f"{cfg.path}: the config has no TestReader with transforms; it says what the model takes")
    shape = check_shape(reader.image_shape, cfg)
    normalize = next((t for t in reader.preprocess if isinstance(t, NormalizeImage)), None)
    size = [-1 if side is None else side for side in shape[1:]]
    steps, eager_steps = (to_list(reader.preprocess, size, fused) for fused in (reader.fuse_normalize, False))
    if shape[2] != shape[3] and any(step["type"] == "Pad" for step in steps):
        raise UserError(
            f"{cfg.path}: the network's size {shape[2]} x {shape[3]} is fixed, but TestReader's Resize keeps the ratio "
            "of sides, so upright pictures would not fit; take a square, or Resize with keep_ratio: false"
        )
    return NetworkInput(shape, steps, eager_steps, normalize if reader.fuse_normalize else None)


def fixed_input(network_input: NetworkInput, cfg: Config) -> NetworkInput:
    """The same for one image at a time. UserError if the size is free."""
    if network_input.shape[2] is None:
        raise UserError(f"{cfg.path}: Paddle-Lite needs a fixed size; give --input_size HEIGHT WIDTH")
    return network_input._replace(shape=[1, *network_input.shape[1:]])


def check_shape(value: Any, cfg: Config) -> List[Optional[int]]:
    """[B, 3, H, W] from a config's image_shape ([3, H, W] or with B; -1 is free), None for free sizes."""
    shape = [3, -1, -1] if value is None else list(value) if isinstance(value, (list, tuple)) else []
    if len(shape) == 3:
        shape = [-1, *shape]
    valid = all(isinstance(side, int) and (side == -1 or side > 0) for side in shape)
    if len(shape) != 4 or shape[1] != 3 or not valid or (shape[2] == -1) != (shape[3] == -1):
        raise UserError(
            f"{cfg.path}: TestReader.inputs_def.image_shape {value!r} is not [3, height, width], with -1 for "
            "both if the size is free"
        )
    return [None if side == -1 else side for side in shape]


def read_labels(cfg: Config) -> List[str]:
    """The class names of TestDataset. UserError if they are not as many as the model's classes."""
    labels = build(cfg, "TestDataset").class_names
    if len(labels) != cfg.run.num_classes:
        raise UserError(
            f"{cfg.path}: TestDataset.anno_path names {len(labels)} classes, but num_classes of the model is "
            f"{cfg.run.num_classes}; make them agree"
        )
    return labels


def infer_config(cfg: Config, network_input: NetworkInput, labels: List[str]) -> Dict[str, Any]:
    """The content of infer_cfg.yml."""
    arch, min_subgraph_size = ARCHITECTURES[cfg.run.architecture]
    return {
        "mode": "paddle",
        "draw_threshold": 0.5,
        "metric": cfg.run.metric,
        "use_dynamic_shape": network_input.shape[2] is None,
        "arch": arch,
        "min_subgraph_size": min_subgraph_size,
        "Preprocess": network_input.steps,
        "label_list": labels,
    }
