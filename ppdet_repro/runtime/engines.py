"""From a model's folder and the command line's flags to the engine that runs the model.

B images, N candidate boxes, C classes, M boxes of all images.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Mapping, Tuple

import numpy as np

from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.runtime.lite_network import LiteNetwork
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.networks import Network, OnnxNetwork, OpenVinoNetwork
from ppdet_repro.runtime.pipeline import Engine, Pipeline
from ppdet_repro.runtime.precision import ComparedEngine, low_precision
from ppdet_repro.runtime.suppress import open_suppress, suppress_batch
from ppdet_repro.runtime.tensorrt_network import open_tensorrt
from ppdet_repro.runtime.trial import try_out
from ppdet_repro.utils.errors import UserError

WITHOUT_NMS = ("lite", "tensorrt")  # engines of networks that end in decoded boxes


def open_pipeline(model: ModelFolder, flags: Namespace) -> Pipeline:
    """The model's preprocessing and the engine that the flags name (see `options.add_engine_flags`). UserError if this
    machine cannot run the model as the flags say, or if a file is damaged."""
    if model.post_process is None and flags.engine in WITHOUT_NMS:
        raise UserError(
            f"{model.config_file} has no PostProcess, but --engine={flags.engine} needs a model that leaves the "
            "suppression to us; export it with export.post_process on and export.benchmark and export.onnx_nms off"
        )
    preprocess = from_list(model.preprocess, str(model.config_file))
    return Pipeline(preprocess, open_engine(model, flags))


def open_engine(model: ModelFolder, flags: Namespace) -> Engine:
    """The model in the engine that the flags name, which is compared with float32 first if its precision is lower."""

    def plain(flags: Namespace) -> Engine:
        return NetworkEngine(open_network(model, flags), model)

    engine, low = plain(flags), low_precision(model, flags)
    return engine if low is None else ComparedEngine(engine, model, low, plain)


def open_network(model: ModelFolder, flags: Namespace) -> Network:
    """The model in the engine that the flags name, tried out before if no manifest vouches for its files (but not in
    TensorRT, which has no CPU). Paddle is imported only for its own engine: the others need none."""
    if flags.engine == "tensorrt":
        return open_tensorrt(model, flags)
    if not model.checked:
        try_out(model, flags)
    if flags.engine == "onnxruntime":
        return OnnxNetwork(model.network_file, flags.cpu_threads, getattr(flags, "device", "cpu"))
    if flags.engine == "openvino":
        return OpenVinoNetwork(model.network_file, flags.cpu_threads)
    if flags.engine == "lite":
        return LiteNetwork(model.network_file)

    from ppdet_repro.runtime.paddle_network import PaddleNetwork
    from ppdet_repro.runtime.paddle_options import PaddleOptions
    from ppdet_repro.runtime.paddle_tensorrt import TensorRtNetwork

    options = PaddleOptions(**{name: getattr(flags, name) for name in PaddleOptions._fields if hasattr(flags, name)})
    if options.run_mode == "paddle":
        return PaddleNetwork(model.network_file, options)
    return TensorRtNetwork(model, options)


class NetworkEngine:
    """A network, and the suppression that the network does not contain."""

    def __init__(self, network: Network, model: ModelFolder):
        self.network = network
        self.folder = model.folder
        entry = model.post_process
        self.suppress = None if entry is None else open_suppress(entry, str(model.config_file))

    def run(self, inputs: Mapping[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """See `pipeline.Engine`. UserError if the model ends in other outputs than its folder says."""
        outputs = self.network.run(inputs)
        shapes = [output.shape for output in outputs]
        ends = f"{self.folder} ends in outputs of shape {', '.join(str(list(shape)) for shape in shapes)}"
        if self.suppress is None:
            if len(shapes) != 2 or shapes[0][1:] != (6,) or outputs[1].dtype.kind != "i":
                raise UserError(
                    f"{ends}, not in boxes [M, 6] and their number; export it with export.post_process and export.nms "
                    "on and export.benchmark off"
                )
            return outputs[0], outputs[1]
        if list(map(len, shapes)) != [3, 3] or shapes[0][1:] != (shapes[1][2], 4):  # [B, N, 4] and [B, C, N]
            raise UserError(f"{ends}, not in boxes and scores; export the model again")
        return suppress_batch(self.suppress, outputs[0], outputs[1])
