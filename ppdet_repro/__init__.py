"""Five object detectors, reproduced, trained and deployed with PaddlePaddle.

    from ppdet_repro import Detector

    for result in Detector.load("output_inference/yolof_r50_c5_1x_coco").predict("photos"):
        print(result.save("output"), result.boxes, result.scores, result.names)

Importing the package prepares the process for Paddle (number of threads, code path of MKL) and for OpenCV (the largest
picture), but imports neither.
"""

from __future__ import annotations

import warnings
import zlib  # noqa: F401  Paddle 2.6 can crash inside zlib when it loads its own copy first
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ppdet_repro.utils import cpu_env, picture_limit

if TYPE_CHECKING:
    from ppdet_repro.core.config import build, build_model, load_config
    from ppdet_repro.engine.detector import Detector
    from ppdet_repro.engine.evaluation.evaluate import evaluate
    from ppdet_repro.engine.export.export_model import export_model
    from ppdet_repro.engine.training.train import train
    from ppdet_repro.runtime.result import Result

cpu_env.apply()
picture_limit.apply()
warnings.filterwarnings("ignore", "No ccache found", UserWarning)  # Paddle 3 says so at each import

__version__ = "0.3.0"
__all__ = ["Detector", "Result", "build", "build_model", "evaluate", "export_model", "load_config", "train"]

_MODULES = {
    "Detector": "engine.detector",
    "Result": "runtime.result",
    "build": "core.config",
    "build_model": "core.config",
    "evaluate": "engine.evaluation.evaluate",
    "export_model": "engine.export.export_model",
    "load_config": "core.config",
    "train": "engine.training.train",
}


def __getattr__(name: str) -> Any:
    """Import a function of the public interface when it is used first: the module may import Paddle."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
