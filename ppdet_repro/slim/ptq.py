"""Post-training quantisation: an exported float32 model becomes one that computes its convolutions in int8.

The ranges of the activations are read off some images that run through the model; weights have a scale for every
output channel. Only convolutions are quantised: anchors, decoding and suppression stay in float32, where a step of a
256th of the picture would be seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle.static.quantization import PostTrainingQuantization
from paddle.static.quantization.quant_config import BaseQuantizer

from ppdet_repro.core.registry import register
from ppdet_repro.slim.static import static_mode
from ppdet_repro.utils.errors import UserError

CONVOLUTIONS = ["conv2d", "depthwise_conv2d"]

# PaddleDetection's name -> Paddle's algorithm. Paddle's KL divergence leaves no model (2.6.2).
ALGORITHMS = {"AvgQuantizer": "avg", "AbsmaxQuantizer": "abs_max", "MSEQuantizer": "mse", "HistQuantizer": "hist"}
WEIGHTS = {"PerChannelAbsmaxQuantizer": "channel_wise_abs_max", "AbsmaxQuantizer": "abs_max"}
KEYS = ("activation_quantizer", "weight_quantizer", "hist_percent", "upsample_bins")

Read = Callable[[str], Mapping[str, np.ndarray]]


@register
class PTQ:
    """The section `PTQ` of PaddleDetection's configs for post-training quantisation.

    ptq_config       activation_quantizer: how the range of an activation follows from the images: AvgQuantizer (mean
                     of each image's largest absolute value, the default), AbsmaxQuantizer (the largest of all),
                     MSEQuantizer (least squared error), HistQuantizer (the value that the share `hist_percent` does
                     not exceed; `upsample_bins` is accepted, Paddle's static histogram has 2048 bins);
                     weight_quantizer: PerChannelAbsmaxQuantizer (the default) or AbsmaxQuantizer
    quant_batch_num  batches of EvalReader's size that are looked at
    output_dir       accepted; `--output_dir` says where the model goes
    fuse             fold batch norms into convolutions first; must be true, as int8 engines want
    fuse_list        accepted; what is foldable is found
    """

    def __init__(
        self,
        ptq_config: Optional[Dict[str, Any]] = None,
        quant_batch_num: int = 10,
        output_dir: str = "output_inference",
        fuse: bool = True,
        fuse_list: Optional[List[Any]] = None,
    ):
        given = dict(ptq_config or {})
        unknown = sorted(set(given) - set(KEYS))
        if unknown:
            raise UserError(f"PTQ.ptq_config has no key {unknown[0]!r}; it has {', '.join(KEYS)}")
        if quant_batch_num < 1:
            raise UserError(f"PTQ.quant_batch_num {quant_batch_num} is less than 1")
        if not fuse:
            raise UserError("PTQ.fuse must be true: engines want int8 convolutions without batch norms behind them")
        self.algorithm = choose(ALGORITHMS, given, "activation_quantizer", "AvgQuantizer")
        self.weights = choose(WEIGHTS, given, "weight_quantizer", "PerChannelAbsmaxQuantizer")
        self.hist_percent = float(given.get("hist_percent", 0.9999))
        if not 0 < self.hist_percent <= 1:
            raise UserError(f"PTQ.ptq_config.hist_percent {self.hist_percent} is not in (0, 1]")
        self.quant_batch_num = quant_batch_num

    def quantise(self, folder: Path, files: Sequence[str], read: Read) -> None:
        """Replace model.pdmodel and model.pdiparams in `folder` by their int8 form (QuantizeLinear and DequantizeLinear
        around convolutions, as ONNX has them). `files` calibrate it; `read` gives the network's inputs for a file, by
        name, as batches of one image. UserError if the model has no convolutions."""
        with static_mode() as executor:
            program, feeds, _ = paddle.static.load_inference_model(str(folder / "model"), executor)
            if not any(operator.type in CONVOLUTIONS for operator in program.global_block().ops):
                raise UserError("the model has no convolution that could be quantised")
            variables = [program.global_block().var(name) for name in feeds]
            loader = paddle.io.DataLoader(
                Calibration(files, read, feeds),
                feed_list=variables,
                places=[paddle.CPUPlace()],
                return_list=False,
                batch_size=1,
            )
            quantiser = PostTrainingQuantization(
                executor=executor,
                model_dir=str(folder),
                model_filename="model.pdmodel",
                params_filename="model.pdiparams",
                data_loader=loader,
                batch_size=1,
                batch_nums=len(files),
                algo=self.algorithm,
                hist_percent=self.hist_percent,
                quantizable_op_type=CONVOLUTIONS,
                weight_quantize_type=self.weights,
                onnx_format=True,
            )
            quantiser.quant_config = ConvolutionQuantizer(quantizable_op_type=CONVOLUTIONS)
            quantiser.quantize()
            quantiser.save_quantized_model(str(folder))
        (folder / "model.pdiparams.info").unlink(missing_ok=True)  # of the float32 weights


class ConvolutionQuantizer(BaseQuantizer):
    """Quantises convolutions and observes nothing else. Paddle's own observes every operator: those of decoding too,
    some of whose outputs have no dimension, which it does not survive; and activations that only scales read, behind
    which oneDNN forgets the scale's factor (2.6.2)."""

    @property
    def observer_operation_types(self) -> List[str]:
        return []


class Calibration(paddle.io.Dataset):
    """The inputs of a program, in the order of its feeds."""

    def __init__(self, files: Sequence[str], read: Read, feeds: Sequence[str]):
        super().__init__()
        self.files, self.read, self.feeds = files, read, feeds

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tuple[np.ndarray, ...]:
        one = self.read(self.files[index])
        return tuple(one[name][0] for name in self.feeds)


def choose(known: Mapping[str, str], given: Mapping[str, Any], key: str, default: str) -> str:
    """The algorithm that a key of ptq_config names. UserError if there is none."""
    name = given.get(key, default)
    if name not in known:
        raise UserError(f"PTQ.ptq_config.{key} {name!r} is not one of {', '.join(known)}")
    return known[name]
