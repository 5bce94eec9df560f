"""What computes the network when a detector is trained on a CPU: oneDNN on channels-last maps, or Paddle's kernels."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn

from ppdet_repro.core.config import Config
from ppdet_repro.engine.distributed import World
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.architectures.feature_maps import use_feature_maps, use_tensors
from ppdet_repro.onednn import library
from ppdet_repro.paddle_private import layers as private
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

TRIED = (2, 3, 256, 256)  # the shape of the images on which both are compared
AGREE = 0.01  # the largest distance of outputs, relative to their norm; a wrong layout gives about 1


def choose_kernels(detector: Detector, cfg: Config, world: World, teacher: Optional[Detector] = None) -> None:
    """Let oneDNN compute the network in training mode, and its teacher, if `cpu_kernels` says so or leaves the choice.

    With `auto`, the outputs of both are compared first, and one line of the log says which is used and why. UserError:
    the setting is `onednn`, and oneDNN cannot compute this network.
    """
    wanted = cfg.run.cpu_kernels
    if world.gpu or wanted == "paddle":
        return
    low = cfg.run.amp and library.has_bfloat16() and not has_depthwise(detector.backbone)
    reason = hindrance(cfg) or difference(detector) or (None if teacher is None else difference(teacher))
    if reason is None:
        use_feature_maps(detector, library.BF16 if low else library.F32)
        if teacher is not None:
            use_feature_maps(teacher, library.BF16 if low else library.F32, always=True)
    if wanted == "onednn" and reason is not None:
        raise UserError(f"{cfg.path}: cpu_kernels: onednn does not work here: {reason}; use auto or paddle")
    if world.rank == 0:
        version = "" if reason is not None else ".".join(map(str, library.version()))
        precision = "bfloat16, weights and losses in float32" if low else "float32"
        if cfg.run.amp and not low and library.has_bfloat16():
            precision += ", which is faster than bfloat16 for its depthwise convolutions"
        chosen = f"oneDNN {version} in {precision}" if reason is None else f"Paddle's kernels in float32 ({reason})"
        get_logger().info(f"the network is computed by {chosen}")


def hindrance(cfg: Config) -> Optional[str]:
    """Why oneDNN cannot be used with a config on this machine, if so."""
    if library.library() is None:
        return "this Paddle has no oneDNN 3"
    if cfg.run.quantized or cfg.run.to_static:
        return "QAT and to_static need them"
    if cfg.run.norm_type == "sync_bn" and paddle.distributed.get_world_size() > 1:
        return "synchronized batch norms need them"
    return None


def difference(detector: Detector, shape: Sequence[int] = TRIED) -> Optional[str]:
    """How oneDNN's outputs differ from Paddle's on random images, or why it has none; None: they agree.

    The detector is left as it was, and so are the random numbers.
    """
    training, random_state = detector.training, paddle.get_rng_state()
    statistics = [s for norm in batch_norms(detector) for s in private.running_statistics(norm)]
    kept = [s.clone() for s in statistics]
    image = paddle.to_tensor(np.random.RandomState(0).standard_normal(shape).astype("float32"))
    detector.train()
    try:
        with paddle.no_grad():
            paddle.seed(0)
            expected = arrays(detector.raw(image))
            use_feature_maps(detector, library.F32)
            paddle.seed(0)
            found = arrays(detector.raw(image))
    except Exception as error:  # a component of the user's may ask for anything that a tensor has
        get_logger().debug("oneDNN cannot compute the network", exc_info=True)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        use_tensors(detector)
        detector.train() if training else detector.eval()
        for statistic, values in zip(statistics, kept):
            paddle.assign(values, output=statistic)
        paddle.set_rng_state(random_state)
    for index, (one, other) in enumerate(zip(expected, found)):
        distance = float(np.linalg.norm(one - other) / max(float(np.linalg.norm(one)), 1e-12))
        if not distance < AGREE:
            return f"output {index} of the network differs by {distance:.2g} in oneDNN"
    return None


def has_depthwise(network: nn.Layer) -> bool:
    """Whether it has depthwise convolutions, which oneDNN computes more slowly in bfloat16 than in float32."""
    convolutions = [layer for layer in network.sublayers() if isinstance(layer, nn.Conv2D)]
    return any(private.convolution_geometry(layer).groups == layer.weight.shape[0] > 1 for layer in convolutions)


def batch_norms(detector: Detector) -> List[Any]:
    return [layer for layer in detector.sublayers() if isinstance(layer, private.BATCH_NORMS)]


def arrays(raw: Any) -> List[np.ndarray]:
    """The float32 tensors among a head's outputs."""
    found = paddle.utils.flatten(raw)
    return [value.numpy() for value in found if isinstance(value, Tensor) and value.dtype == paddle.float32]
