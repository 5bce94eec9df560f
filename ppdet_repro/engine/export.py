"""Export: a detector as a Paddle inference model, with the infer_cfg.yml of PaddleDetection's deployment."""
from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Union

import paddle
import yaml
from paddle import nn
from paddle.static import InputSpec

from ppdet_repro.core.config import Config, ExportSettings, build
from ppdet_repro.data.transform.normalize import NormalizeImage
from ppdet_repro.data.transform.preprocess import to_list
from ppdet_repro.engine.exported import DecodedBoxes, FinalBoxes, NormalizedInside, RawOutputs
from ppdet_repro.engine.fold import fold_batch_norms
from ppdet_repro.modeling.architectures.detector import Detector
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

EXAMPLE_SIZE = (128, 128)  # pixels of the image that shows which layers follow each other


class NetworkInput(NamedTuple):
    """What the TestReader section says of the network's input.

    `shape` [B, 3, H, W] with None for free sizes; `steps`: the transforms after decoding, as in
    infer_cfg.yml; `normalize`: set if the network normalises itself.
    """

    shape: List[Optional[int]]
    steps: List[Dict[str, Any]]
    normalize: Optional[NormalizeImage]


def export_model(detector: Detector, cfg: Config, output_dir: Union[str, Path] = "output_inference") -> Path:
    """Write `output_dir/<config's name>` with model.pdmodel, model.pdiparams and infer_cfg.yml; return it.

    The section `export` of the config decides what the model contains (`ExportSettings`), TestReader what it
    takes. An older export of that name is replaced when the new one is complete. UserError if the
    architecture has no name in deployment, TestDataset's classes are not the model's, or writing fails.
    """
    if cfg.run.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(
            f"{cfg.path}: cannot export architecture {cfg.run.architecture}; these can be: {known}"
        )
    network_input = read_input(cfg)
    labels = read_labels(cfg)
    target = Path(output_dir) / cfg.name
    was_training = detector.training
    detector.eval()
    try:
        exported = folded(detector) if cfg.run.export.fuse_conv_bn else detector
        network = wrap(exported, cfg.run.export, network_input.normalize)
        with atomic_folder(target) as folder:
            save_network(network, network_input.shape, folder / "model")
            config = infer_config(cfg, network_input, labels)
            (folder / "infer_cfg.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the export to {target}: {error.strerror or error}") from error
    finally:
        if was_training:
            detector.train()
    get_logger().info(f"exported to {target}")
    return target


def folded(detector: Detector) -> Detector:
    """A copy of the detector with its batch norms folded into its convolutions."""
    example = paddle.zeros([1, 3, *EXAMPLE_SIZE])
    return fold_batch_norms(detector, lambda network: network.raw(example))


def wrap(
    detector: Detector, settings: ExportSettings, normalize: Optional[NormalizeImage] = None
) -> nn.Layer:
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
        raise UserError(
            f"{cfg.path}: the config has no TestReader with transforms; it says what the model takes"
        )
    shape = check_shape(reader.image_shape, cfg)
    normalize = next((t for t in reader.preprocess if isinstance(t, NormalizeImage)), None)
    steps = to_list(
        reader.preprocess, [-1 if side is None else side for side in shape[1:]], reader.fuse_normalize
    )
    return NetworkInput(shape, steps, normalize if reader.fuse_normalize else None)


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
