"""Post-training quantization: convert an exported float32 model to one that computes its convolutions in int8.

The ranges of the activations are measured on images that run through the model; weights have a scale per output
channel. Only convolutions are quantized. Anchors, decoding and suppression stay in float32, because an error of a 256th
of the image would be visible in the boxes.

The tool is Paddle's. PaddleSlim's quant_post_static wraps it, and always observes what `ConvolutionQuantizer` excludes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np
import paddle
from paddle.static.quantization import PostTrainingQuantization
from paddle.static.quantization.quant_config import BaseQuantizer

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import ImageError
from ppdet_repro.slim.static import static_mode
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

CONVOLUTIONS = ["conv2d", "depthwise_conv2d"]

ALGORITHMS = {  # PaddleDetection's name -> Paddle's algorithm
    "AvgQuantizer": "avg",
    "AbsmaxQuantizer": "abs_max",
    "MSEQuantizer": "mse",
    "HistQuantizer": "hist",
    "KLQuantizer": "KL",
}
WEIGHTS = {"PerChannelAbsmaxQuantizer": "channel_wise_abs_max", "AbsmaxQuantizer": "abs_max"}
KEYS = ("activation_quantizer", "weight_quantizer", "hist_percent", "upsample_bins")

Read = Callable[[str], Mapping[str, np.ndarray]]
"""The path of an image -> the network's inputs by name, as batches of one image."""


@register
class PTQ:
    """The section `PTQ` of PaddleDetection's configs for post-training quantization.

    Args:
        ptq_config: a mapping with the keys
            activation_quantizer: how the range of an activation is computed from the images: AvgQuantizer (mean of each
            image's largest absolute value, the default), AbsmaxQuantizer (the largest of all), MSEQuantizer (least
            squared error), HistQuantizer (the value that a share `hist_percent` does not exceed) or KLQuantizer (least
            divergence of the rounded histogram; slow);
            weight_quantizer: PerChannelAbsmaxQuantizer (the default) or AbsmaxQuantizer;
            hist_percent: for HistQuantizer;
            upsample_bins: ignored, Paddle's static histogram always has 2048 bins
        quant_batch_num: number of batches, of the size that EvalReader has, to measure ranges on
        output_dir: ignored; `--output_dir` is the folder of the model
        fuse: fold batch norms into convolutions first. It must be true, because int8 engines need it.
        fuse_list: ignored; all batch norms that can be folded are found
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
            raise UserError("PTQ.fuse must be true: engines need int8 convolutions without batch norms after them")
        self.algorithm = choose(ALGORITHMS, given, "activation_quantizer", "AvgQuantizer")
        self.weights = choose(WEIGHTS, given, "weight_quantizer", "PerChannelAbsmaxQuantizer")
        self.hist_percent = float(given.get("hist_percent", 0.9999))
        if not 0 < self.hist_percent <= 1:
            raise UserError(f"PTQ.ptq_config.hist_percent {self.hist_percent} is not in (0, 1]")
        self.quant_batch_num = quant_batch_num

    def quantize(self, folder: Path, files: Sequence[str], read: Read) -> None:
        """Replace the float32 model, model.pdmodel and model.pdiparams in `folder`, by its int8 form.

        It has QuantizeLinear and DequantizeLinear operators around convolutions, as in ONNX. The ranges of activations
        are measured on the images `files`; a warning names each that cannot be read. Raises UserError if none can be
        read, or the model has no convolution.
        """
        with static_mode() as executor:
            program, feeds, _ = paddle.static.load_inference_model(str(folder / "model"), executor)
            if not any(operator.type in CONVOLUTIONS for operator in program.global_block().ops):
                raise UserError("the model has no convolution to quantize")
            quantizer = PostTrainingQuantization(
                executor=executor,
                model_dir=str(folder),
                model_filename="model.pdmodel",
                params_filename="model.pdiparams",
                data_loader=Calibration(files, read, feeds),
                batch_size=1,
                batch_nums=len(files),
                algo=self.algorithm,
                hist_percent=self.hist_percent,
                quantizable_op_type=CONVOLUTIONS,
                weight_quantize_type=self.weights,
                onnx_format=True,
            )
            quantizer.quant_config = ConvolutionQuantizer(quantizable_op_type=CONVOLUTIONS)
            quantizer.quantize()
            quantizer.save_quantized_model(str(folder))
        (folder / "model.pdiparams.info").unlink(missing_ok=True)  # describes the float32 weights


class ConvolutionQuantizer(BaseQuantizer):
    """Quantize convolutions and observe no other operators.

    Paddle 2.6.2 observes every operator. It fails on outputs without dimensions, which decoding has; and oneDNN forgets
    the factor of a scale whose input is an observed activation that nothing else reads.
    """

    @property
    def observer_operation_types(self) -> List[str]:
        return []


class Calibration(paddle.io.DataLoader):
    """The inputs of a program for each file that can be read, by the names of its feeds.

    It only has the type that `PostTrainingQuantization` asks for. Paddle's own waits forever for a file that cannot be
    read.
    """

    def __init__(self, files: Sequence[str], read: Read, feeds: Sequence[str]):
        self.files, self.read, self.feeds = list(files), read, feeds

    def __iter__(self) -> Iterator[Dict[str, np.ndarray]]:
        for file in list(self.files):
            try:
                inputs = self.read(file)
            except ImageError as error:
                get_logger().warning(f"skipped {error}")
                self.files.remove(file)
                if not self.files:
                    raise UserError(f"none of the images to calibrate with can be read; the last: {error}") from error
                continue
            yield {name: inputs[name] for name in self.feeds}


def choose(known: Mapping[str, str], given: Mapping[str, Any], key: str, default: str) -> str:
    """The algorithm that a key of ptq_config names. Raises UserError if there is none of that name."""
    name = given.get(key, default)
    if name not in known:
        raise UserError(f"PTQ.ptq_config.{key} {name!r} is not one of {', '.join(known)}")
    return known[name]
