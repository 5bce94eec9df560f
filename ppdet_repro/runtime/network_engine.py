"""Engines whose models end in decoded boxes: the suppression follows in numpy.

B images, N candidate boxes, C classes, M boxes of all images.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Dict, List, Tuple

import numpy as np

from ppdet_repro.runtime.lite_process import LiteProcess
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.networks import NETWORKS
from ppdet_repro.runtime.suppress import open_suppress, suppress_batch
from ppdet_repro.utils.errors import UserError


class NetworkEngine:
    """A model in ONNX Runtime, OpenVINO or Paddle-Lite, on the CPU."""

    def __init__(self, model: ModelFolder, engine: str, threads: int = 1):
        """UserError if the runtime is not installed, refuses the file, or the folder does not say what follows."""
        self.folder = model.program.parent
        if model.post_process is None:
            raise UserError(
                f"{self.folder}/infer_cfg.yml has no PostProcess, so its outputs are not boxes; export it with "
                "export.post_process on and export.benchmark off"
            )
        self.suppress = open_suppress(model.post_process, f"{self.folder}/infer_cfg.yml")
        if engine == "lite" and find_spec("paddlelite"):
            LiteProcess(model.program).check()  # a damaged file would abort this process
        self.network = NETWORKS[engine](model.program, threads)
        self.one_at_a_time = engine == "lite"  # whose models are of a fixed size, for one image

    def run(self, inputs: Dict[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """`image` [B, 3, H, W], `im_shape` and `scale_factor` [B, 2] -> boxes [M, 6], their number per image [B].
        UserError if the model does not end in boxes [B, N, 4] and scores [B, C, N]."""
        count = len(inputs["image"])
        size = 1 if self.one_at_a_time else count
        parts = [
            self.network.run({name: array[i : i + size] for name, array in inputs.items()})
            for i in range(0, count, size)
        ]
        outputs = [np.concatenate(pieces) for pieces in zip(*parts)]
        self.check(outputs)
        return suppress_batch(self.suppress, *outputs)

    def check(self, outputs: List[np.ndarray]) -> None:
        """UserError if these are not decoded boxes and scores."""
        shapes = [list(output.shape) for output in outputs]
        if len(shapes) != 2 or len(shapes[0]) != 3 or len(shapes[1]) != 3 or shapes[0][1:] != [shapes[1][2], 4]:
            raise UserError(
                f"{self.folder} ends in outputs of shape {', '.join(map(str, shapes))}, not in boxes and scores; "
                "export the model again"
            )
