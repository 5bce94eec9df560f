"""Comparison of a low precision with float32: on the first image with boxes, what one finds the other should find.

Engines have computed wrong boxes in a low precision without saying so, 16 times too small for example. The comparison
finds such faults; it does not replace measuring the AP.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from ppdet_repro.metrics.agreement import found_again
from ppdet_repro.metrics.detections import split_batch
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.pipeline import Engine
from ppdet_repro.runtime.trial import WORKS, record_file, went_well
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.logger import get_logger

RUNS = 8  # runs after which the comparison gives up, if float32 finds nothing
SHARE = 0.5  # the share of boxes that a low precision must find


class LowPrecision(NamedTuple):
    """A precision below float32, as the flags ask for it."""

    name: str
    flag: str  # what asks for it
    float32: Namespace  # the flags with which the same engine computes the model in float32


def low_precision(model: ModelFolder, flags: Namespace) -> Optional[LowPrecision]:
    """The low precision in which an engine computes a model with these flags; None in float32, and for engines on which
    the flags have no influence. A quantized model has no float32 form: int8 is simulated in float32 then."""
    if flags.engine == "onnxruntime" and getattr(flags, "device", "cpu") == "gpu":  # and a model in FP16, for example
        return LowPrecision("the GPU's precision", "--device=gpu", Namespace(**{**vars(flags), "device": "cpu"}))
    if flags.engine == "tensorrt":  # computes in the types of the file
        cpu = Namespace(**{**vars(flags), "engine": "onnxruntime", "device": "cpu"})
        return LowPrecision("TensorRT", "--engine=tensorrt", cpu)
    if flags.engine != "paddle" or getattr(flags, "collect_trt_shape_info", False):
        return None
    exact = {"run_mode": "paddle", "enable_mkldnn_bfloat16": False, "enable_mkldnn_int8": False}
    float32 = Namespace(**{**vars(flags), **exact})
    mode = getattr(flags, "run_mode", "paddle")
    if mode in ("trt_fp16", "trt_int8"):
        return LowPrecision(mode.removeprefix("trt_"), f"--run_mode={mode}", float32)
    if getattr(flags, "enable_mkldnn_bfloat16", False):
        return LowPrecision("bfloat16", "--enable_mkldnn_bfloat16", float32)

    from ppdet_repro.paddle_private.saved_program import read_operators
    from ppdet_repro.runtime.paddle_program import is_quantized

    if getattr(flags, "enable_mkldnn_int8", None) is not False and is_quantized(read_operators(model.network_file)):
        return LowPrecision("int8", "--enable_mkldnn_int8", float32)
    return None


class ComparedEngine:
    """An engine in a low precision. Its first run with boxes is repeated in float32, and a warning says if they do not
    agree. If they agree, a file in the user's folder for caches says so, and the same model is not compared again."""

    def __init__(
        self, engine: Engine, model: ModelFolder, low: LowPrecision, open_engine: Callable[[Namespace], Engine]
    ):
        """`open_engine` opens the model's engine for other flags."""
        self.engine, self.folder, self.low, self.open_engine = engine, model.folder, low, open_engine
        self.record = record_of(model, low)
        self.float32: Optional[Engine] = None
        self.runs_left = 0 if went_well(self.record) else RUNS

    def run(self, inputs: Mapping[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """See `pipeline.Engine`."""
        found = self.engine.run(inputs)
        if self.runs_left:
            self.runs_left -= 1
            try:
                self._compare(inputs, found)
            except UserError as error:
                get_logger().warning(f"{self.folder} in {self.low.name} cannot be compared with float32: {error}")
                self.runs_left = 0
            if not self.runs_left:
                self.float32 = None  # frees its memory
        return found

    def _compare(self, inputs: Mapping[str, np.ndarray], found: Tuple[np.ndarray, np.ndarray]) -> None:
        """Compare the boxes that were found with those in float32."""
        with only_errors():
            self.float32 = self.float32 or self.open_engine(self.low.float32)
            expected = self.float32.run(inputs)
        images = np.arange(len(expected[1]))
        pairs = zip(split_batch(images, *expected), split_batch(images, *found))
        counts = [found_again(rows, others) for (_, rows), (_, others) in pairs]
        again, total = (sum(column) for column in zip(*counts))
        if not total:
            return
        self.runs_left = 0
        if again < SHARE * total:
            name, agree = self.low.name, f"{again} of the best {total} agree"
            problem = f"{self.folder} finds other boxes in {name} ({self.low.flag}) than in float32: {agree}"
            get_logger().warning(f"{problem}; export the model again, or do not use {name}")
            return
        with suppress(UserError):  # the folder cannot be written: the next process compares again
            write_output(self.record, WORKS)


def record_of(model: ModelFolder, low: LowPrecision) -> Path:
    """The file whose existence says that the model's boxes in a low precision agree with those in float32."""
    where = getattr(low.float32, "device", "cpu")
    return record_file(model, {"engine": low.float32.engine, "device": where, "compared": low.flag})


@contextmanager
def only_errors() -> Iterator[None]:
    """Log errors alone: remarks about the engine in float32 are not about what the user asked for."""
    logger = get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
