"""Export of a detector: as a Paddle inference model, as ONNX or for Paddle-Lite.

The folder has the format of PaddleDetection's exports, and a manifest (see `runtime.manifest`):

| target | files beside infer_cfg.yml and manifest.json                                  | outputs                    |
|--------|------------------------------------------------------------------------------|----------------------------|
| paddle | model.pdmodel (Paddle 2, int8) or model.json (Paddle 3), and model.pdiparams | final boxes, or see `wrap` |
| onnx   | model.onnx; deformable convolutions are built from grid_sample               | decoded or final boxes     |
| lite   | model_arm.nb, model_x86.nb; the weights of BiFPN's fusion are constants      | decoded boxes              |
"""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
import yaml
from paddle import nn
from paddle.static import InputSpec
from paddle.vision.ops import DeformConv2D

from ppdet_repro.core.config import Config, ExportSettings
from ppdet_repro.data.transform.normalize import NormalizeImage
from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.engine.export.converters import to_lite_files, to_onnx
from ppdet_repro.engine.export.fold import FixedFusion, fold_batch_norms, fold_distance_factor, with_replaced
from ppdet_repro.engine.export.grid_sample_dcn import GridSampleConv
from ppdet_repro.engine.export.half import simplify, to_half
from ppdet_repro.engine.export.infer_cfg import NetworkInput, for_one_image, infer_config, read_input, with_batch
from ppdet_repro.engine.export.onnx_suppression import OUTPUTS, add_suppression, check_suppression
from ppdet_repro.engine.export.verify import verify
from ppdet_repro.engine.export.wrappers import DecodedBoxes, FinalBoxes, HeadOutputs, NormalizedInside
from ppdet_repro.engine.models import mode
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.necks.bifpn import Fusion
from ppdet_repro.paddle_private.protobuf_tracing import protobuf_tracing
from ppdet_repro.paddle_private.saved_program import fuse_biases, saved_program, signature
from ppdet_repro.paddle_private.targets import check_target
from ppdet_repro.paddle_private.traced_program import used_inputs
from ppdet_repro.paddle_private.translation import quick_to_trace
from ppdet_repro.runtime.manifest import write_manifest
from ppdet_repro.slim.qat import to_int8, without_clipping
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_folder
from ppdet_repro.utils.logger import get_logger

PADDLE = ("paddlepaddle", "paddlepaddle-gpu", "numpy")  # packages that take part in every export
TOOLS = {"paddle": (), "onnx": ("paddle2onnx",), "lite": ("paddlelite",)}  # and in those for a target

ReadImage = Callable[[str], Mapping[str, np.ndarray]]
Suppression = Optional[Dict[str, Any]]  # an entry `PostProcess` of infer_cfg.yml, or none


def export_model(
    detector: Detector,
    cfg: Config,
    output_dir: Union[str, Path] = "output_inference",
    target: str = "paddle",
    precision: str = "fp32",
    verify_on: Sequence[str] = (),
    quantize: Optional[Callable[[Path, ReadImage], None]] = None,
    batch: Optional[int] = None,
) -> Path:
    """Export a detector into a new folder, whose files the module's docstring lists.

    Args:
        detector: The model of the config.
        cfg: Its section `export` defines what the exported network computes, TestReader what it takes as input.
        output_dir: The parent of the new folder.
        target: "paddle", "onnx" or "lite". Only "paddle", and "onnx" with `export.onnx_nms`, suppress duplicates.
        precision: Of an ONNX model: "fp32" or "fp16"; of a Paddle-Lite model also "int8" or "int16".
        verify_on: Image files on which the exported model must find what the detector finds.
        quantize: Replaces the float32 model in a folder by an int8 one, given a function that reads an image file as
            inputs of the network. A model that was trained with `slim: QAT` is exported in int8 without it.
        batch: The fixed number of images per batch; any number without it.

    Returns:
        The folder, `output_dir`/NAME, NAME_onnx or NAME_lite, where NAME is the config's. It replaces an older one.

    Raises UserError if target, model, config and installed Paddle do not fit, or a step fails.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ppdet_repro import build_model, export_model, load_config
        >>> cfg = load_config("demo/yolof_demo.yml", ["export.benchmark=true"])  # the network alone
        >>> with TemporaryDirectory() as output_dir:
        ...     print(export_model(build_model(cfg), cfg, output_dir).name)
        yolof_demo
    """
    if cfg.run.quantized:
        detector, quantize = trained_in_int8(detector, verify_on), to_int8
    check_precision(target, precision, quantized=quantize is not None)
    settings, network_input = export_settings(cfg, target), export_input(cfg, target, batch)
    inside, outside = suppressions(detector, settings, target)
    content = infer_config(cfg, network_input, outside)
    destination = Path(output_dir) / (cfg.name if target == "paddle" else f"{cfg.name}_{target}")
    try:
        with mode(detector, training=False), atomic_folder(destination) as folder:
            network = wrap(adapt(detector, target, settings.fuse_conv_bn), settings, network_input.normalize)
            save_network(network, network_input.shape, folder / "model", protobuf=quantize is not None)
            (folder / "infer_cfg.yml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            if quantize is not None:
                quantize(folder, lambda file: from_list(network_input.steps)([file])._asdict())
            finish(folder, cfg, target, precision, inside)
            if verify_on:
                found = verify(detector, folder, target, precision, network_input.eager, verify_on).table()
                get_logger().info(f"{destination} agrees with the eager model\n{found}")
    except OSError as error:
        raise UserError(f"cannot write the export to {destination}: {error.strerror or error}") from error
    get_logger().info(f"exported to {destination}")
    return destination


def export_settings(cfg: Config, target: str) -> ExportSettings:
    """The config's section `export`, without the suppression where the target or the config leaves it out."""
    without_nms = target != "paddle" or cfg.run.exclude_nms
    return replace(cfg.run.export, nms=False) if without_nms else cfg.run.export


def export_input(cfg: Config, target: str, batch: Optional[int]) -> NetworkInput:
    """The input of the exported network. Paddle-Lite takes one image of a fixed size."""
    given = read_input(cfg)
    return for_one_image(given, cfg) if target == "lite" else with_batch(given, batch)


def trained_in_int8(detector: Detector, verify_on: Sequence[str]) -> Detector:
    """A detector that was trained with `slim: QAT`, for its export. UserError if it is to be verified."""
    if verify_on:
        raise UserError("--verify: an int8 model is not its float32 one; compare their AP (infer --eval_json)")
    return without_clipping(detector)


def check_precision(target: str, precision: str, quantized: bool) -> None:
    """UserError if the installed Paddle cannot export a model, quantized or not, for the target in the precision."""
    if quantized and (target, precision) == ("onnx", "fp16"):
        raise UserError("--precision fp16: the model is quantized and computes in int8; leave the flag out")
    check_target(target, quantized=quantized)


def remaining_suppression(detector: Detector, settings: ExportSettings) -> Suppression:
    """The suppression that has to follow an exported network that ends in decoded boxes, as in infer_cfg.yml."""
    if settings.nms or settings.benchmark or not settings.post_process:
        return None
    suppress = detector.post_process.suppress
    return {"type": suppress.name, **suppress.settings}


def suppressions(detector: Detector, settings: ExportSettings, target: str) -> Tuple[Suppression, Suppression]:
    """The suppression that an ONNX file is to contain, and the one that has to follow the exported network. UserError
    if ONNX cannot compute the former."""
    remaining = remaining_suppression(detector, settings)
    if remaining is None or target != "onnx" or not settings.onnx_nms:
        return None, remaining
    check_suppression(remaining)
    return remaining, None


def adapt(detector: Detector, target: str, fuse_conv_bn: bool) -> Detector:
    """A copy of the detector, with layers that the target supports. With `fuse_conv_bn`, batch norms are folded into
    the convolutions before them. Tracing the copy changes its layers, after which some of them could not be trained."""
    if fuse_conv_bn:
        example = paddle.zeros([1, 3, 128, 128])  # is run to find out which layer follows which
        detector = fold_batch_norms(detector, lambda network: network.raw(example))
    if target == "onnx":
        detector = with_replaced(detector, DeformConv2D, GridSampleConv)
    else:
        detector = with_replaced(detector, Fusion, FixedFusion) if target == "lite" else copy.deepcopy(detector)
    fold_distance_factor(detector)
    return detector


def wrap(detector: Detector, settings: ExportSettings, normalize: Optional[NormalizeImage]) -> nn.Layer:
    """The layer to export. The settings define its outputs. It starts with the normalization if one is given."""
    if settings.benchmark or not settings.post_process:
        network: nn.Layer = HeadOutputs(detector)
    else:
        network = FinalBoxes(detector) if settings.nms else DecodedBoxes(detector)
    if normalize is not None:
        network = NormalizedInside(network, normalize, settings.padding == "black")
    network.eval()
    return network


def save_network(network: nn.Layer, image_shape: Sequence[Optional[int]], prefix: Path, protobuf: bool = False) -> None:
    """Write a program, `prefix`.pdmodel (Paddle 2) or `prefix`.json (Paddle 3), and `prefix`.pdiparams. Inputs that no
    output depends on are left out. With `protobuf`, Paddle 3 writes `prefix`.pdmodel, too: int8 needs it."""
    batch = image_shape[0]
    spec = {
        "image": InputSpec(list(image_shape), "float32", "image"),
        **{name: InputSpec([batch, 2], "float32", name) for name in ("im_shape", "scale_factor")},
    }
    with warnings.catch_warnings(), protobuf_tracing() if protobuf else nullcontext():
        warnings.simplefilter("ignore")  # Paddle's advice to authors of static graphs
        network = quick_to_trace(network)
        traced = paddle.jit.to_static(network, input_spec=[spec], full_graph=True).forward
        used = {name: spec[name] for name in used_inputs(traced, list(spec))}
        paddle.jit.save(network, str(prefix), input_spec=None if used == spec else [used])
    fuse_biases(saved_program(prefix))


def finish(folder: Path, cfg: Config, target: str, precision: str, suppression: Suppression = None) -> None:
    """Make the folder with a Paddle model and its infer_cfg.yml an export for the target, with a manifest. An ONNX
    model gets the suppression, if one is given."""
    inputs_and_outputs = signature(saved_program(folder / "model"))
    if target != "paddle":
        fixed = inputs_and_outputs["inputs"][0]["shape"][0] > 0
        convert(folder, target, precision, fixed)
    if suppression is not None:
        add_suppression(folder / "model.onnx", suppression)
        inputs_and_outputs["outputs"] = OUTPUTS
    write_manifest(folder, cfg.name, cfg.document.plain(), inputs_and_outputs, (*PADDLE, *TOOLS[target]))


def convert(folder: Path, target: str, precision: str, fixed_batch: bool) -> None:
    """Replace the Paddle model in a folder by that of the target, ONNX or Paddle-Lite. An ONNX file has no shape
    arithmetic that a fixed batch makes unnecessary."""
    program, parameters = saved_program(folder / "model"), folder / "model.pdiparams"
    if target == "onnx":
        to_onnx(program, parameters, folder / "model.onnx")
        if fixed_batch or precision == "fp16":
            simplify(folder / "model.onnx")
        if precision == "fp16":
            to_half(folder / "model.onnx")
    else:
        to_lite_files(program, parameters, folder, precision)
    for file in (program, *folder.glob("model.pd*")):
        file.unlink(missing_ok=True)
