"""From a model's folder and the command line's flags to the engine that runs the model.

B images, N candidate boxes, C classes, M boxes of all images.
"""

from __future__ import annotations

from argparse import Namespace
from typing import List, Mapping, Sequence, Tuple

import numpy as np

from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.runtime.lite_network import LiteNetwork
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.networks import Network, OnnxNetwork, OpenVinoNetwork
from ppdet_repro.runtime.pipeline import Pipeline
from ppdet_repro.runtime.suppress import open_suppress, suppress_batch
from ppdet_repro.utils.errors import UserError


def open_pipeline(model: ModelFolder, flags: Namespace) -> Pipeline:
    """The model's preprocessing and the engine that the flags name (see `options.add_engine_flags`).

    Raises:
        UserError: This machine cannot run the model as the flags say, or a file is damaged.
    """
    if model.post_process is None and flags.engine != "paddle":
        raise UserError(
            f"{model.config_file} has no PostProcess, so the model's outputs are not boxes; export it with "
            "export.post_process on and export.benchmark off"
        )
    preprocess = from_list(model.preprocess, str(model.config_file))
    return Pipeline(preprocess, NetworkEngine(open_network(model, flags), model))


def open_network(model: ModelFolder, flags: Namespace) -> Network:
    """The model in the engine that the flags name. UserError as for `open_pipeline`.

    Paddle is imported here and not at the top, so that other engines run without it and a wrong flag is reported at
    once.
    """
    if flags.engine == "onnxruntime":
        return OnnxNetwork(model.network_file, flags.cpu_threads)
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
    """A network, and what turns its outputs into final boxes where the network does not."""

    def __init__(self, network: Network, model: ModelFolder):
        self.network = network
        self.folder = model.folder
        self.suppress = None
        if model.post_process is not None:
            self.suppress = open_suppress(model.post_process, str(model.config_file))

    def run(self, inputs: Mapping[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """Detect on a batch.

        Args:
            inputs: `image` [B, 3, H, W], `im_shape` [B, 2] and `scale_factor` [B, 2].

        Returns:
            Boxes [M, 6], and the number of boxes per image [B].

        Raises:
            UserError: The model ends in other outputs than its folder says.
        """
        outputs = self.network.run(inputs)
        if self.suppress is None:
            self._check_final(outputs)
            return outputs[0], outputs[1]
        self._check_decoded(outputs)
        return suppress_batch(self.suppress, outputs[0], outputs[1])

    def _check_final(self, outputs: Sequence[np.ndarray]) -> None:
        """UserError unless these are boxes [M, 6] and their number [B]."""
        if len(outputs) != 2 or outputs[0].shape[1:] != (6,) or outputs[1].dtype.kind != "i":
            raise UserError(
                f"{self.folder} ends in outputs of shape {shapes(outputs)}, not in boxes [M, 6] and their number; "
                "export it with export.post_process and export.nms on and export.benchmark off"
            )

    def _check_decoded(self, outputs: Sequence[np.ndarray]) -> None:
        """UserError unless these are boxes [B, N, 4] and scores [B, C, N]."""
        ranks = [output.ndim for output in outputs]
        if ranks != [3, 3] or outputs[0].shape[1:] != (outputs[1].shape[2], 4):
            raise UserError(
                f"{self.folder} ends in outputs of shape {shapes(outputs)}, not in boxes and scores; export the "
                "model again"
            )


def shapes(outputs: Sequence[np.ndarray]) -> str:
    """The shapes of arrays as text."""
    found: List[str] = [str(list(output.shape)) for output in outputs]
    return ", ".join(found)
