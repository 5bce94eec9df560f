"""Reports the size of a config's model: parameters and multiply-adds by part, beside the paper's figures."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from paddle import nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.core.config import build, build_model, load_config
from ppdet_repro.core.config.run import PaperRow
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine.analysis import counting
from ppdet_repro.engine.analysis.counting import Cost, CountedImage, Size
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.utils.table import text_table


class NetworkSize(NamedTuple):
    """Parameters and multiply-adds of a network."""

    parameters: int
    macs: int
    deformable_parameters: int = 0  # of deformable convolutions, without the convolutions that predict their offsets
    deformable_macs: int = 0


def model_info(
    path: str, overrides: Sequence[str] = (), size: Optional[Size] = None, image_sizes: Sequence[Size] = ()
) -> str:
    """The size of the model of a config file with these overrides, as text.

    Args:
        size: The input size to count at: height, width in pixels.
        image_sizes: The sizes of images, before the config's transforms for evaluation, to average over. Without
            `size` and `image_sizes`, two typical images are counted.
    """
    config = load_config(path, overrides)
    model = build_model(config)
    if size is not None:
        images = [CountedImage(None, size, size, counting.count_input(model, size))]
    else:
        preprocess = Preprocess(build(config, "EvalReader").preprocess)
        images = counting.count_images(model, preprocess, image_sizes or counting.TYPICAL_SIZES)
    counted = images if image_sizes else images[-1:]
    parts = {name: float(np.mean([i.cost.parts[name] for i in counted])) for name in counted[0].cost.parts}
    lines = [f"{config.name}: {config.run.architecture}", "", parts_table(model, parts), ""]
    lines += [mean_line(images)] if image_sizes else [image_line(image) for image in images]
    lines += [
        "Sizes are height x width. GFLOPs are 1e9 multiply-adds of convolutions (also of deformable ones and of",
        "their offsets) and linear layers; not of batch norm, activations, sums, resizing, decoding and NMS.",
        "Parameters are without the running statistics of batch norm.",
    ]
    if counted[0].cost.idle:
        lines.append(f"Not run, so not counted: {', '.join(counted[0].cost.idle)}")
    paper = config.run.paper
    if paper.config == config.name:
        sizes = [network_size(model, counted[-1].cost)]
        if paper.overrides:
            theirs = build_model(load_config(path, [*overrides, *paper.overrides]))
            sizes.append(network_size(theirs, counting.count_input(theirs, counted[-1].padded)))
        lines += ["", *comparison(paper, counted, sizes[0], sizes[-1])]
    return "\n".join(lines)


def network_size(model: Detector, cost: Cost) -> NetworkSize:
    """The size of a network that costs so much on one image."""
    deformable = [layer for layer in model.sublayers() if isinstance(layer, DeformConv2D)]
    parameters = counting.count_parameters(model).total
    return NetworkSize(parameters, cost.total, sum(layer.weight.size for layer in deformable), cost.deformable)


def parts_table(model: nn.Layer, macs: Dict[str, float]) -> str:
    """A line per part: parameters, trainable parameters, GFLOPs."""
    rows = [(name, *counting.count_parameters(part), macs[name]) for name, part in model.named_children()]
    rows.append(("total", *counting.count_parameters(model), sum(macs.values())))
    cells = [(name, f"{n / 1e6:.2f} M", f"{t / 1e6:.2f} M", f"{m / 1e9:.2f}") for name, n, t, m in rows]
    return text_table(["part", "parameters", "trainable", "GFLOPs"], cells)


def image_line(image: CountedImage) -> str:
    """The cost and the sizes of one image in words."""
    words = [f"{image.cost.total / 1e9:.2f} GFLOPs at {times(image.padded)}"]
    if image.resized != image.padded:
        words.append(f"({times(image.resized)} padded)")
    if image.original is not None:
        words.append(f"from an image of {times(image.original)}")
    return " ".join(words)


def mean_line(images: Sequence[CountedImage]) -> str:
    """The mean cost and the mean areas of images in words."""
    resized, padded = mean_area([image.resized for image in images]), mean_area([image.padded for image in images])
    cost = f"{mean_cost(images) / 1e9:.2f} GFLOPs, the mean over {len(images)} images"
    return f"{cost}: mean area {resized:,.0f} px resized, {padded:,.0f} px padded"


def comparison(paper: PaperRow, images: Sequence[CountedImage], ours: NetworkSize, theirs: NetworkSize) -> List[str]:
    """Explain the difference between the paper's counts and ours, the mean over images, step by step, in lines."""
    steps = steps_to_paper(paper, images, ours, theirs)
    cells = [(words, f"{n / 1e6:.2f} M", f"{m / 1e9:.2f}") for words, n, m in steps]
    cells.append(("the paper", f"{paper.parameters:g} M", f"{paper.gflops:g}"))
    _, parameters, macs = steps[-1]
    cells.append(("left", f"{parameters / 1e6 / paper.parameters - 1:+.1%}", f"{macs / 1e9 / paper.gflops - 1:+.1%}"))
    notes = [f"The paper: {paper.source}.", f"Its inputs: {paper.inputs}."]
    notes += [f"Its network: {paper.network}."] if paper.network else []
    return [*notes, *paper.remarks.splitlines(), "", *text_table(["", "parameters", "GFLOPs"], cells).splitlines()]


def steps_to_paper(
    paper: PaperRow, images: Sequence[CountedImage], ours: NetworkSize, theirs: NetworkSize
) -> List[Tuple[str, int, float]]:
    """What leads from our counts, the mean over images, to what the paper counts: words, parameters, multiply-adds (or
    operations) after each step. `ours` and `theirs` are the config's and the paper's network at the same input size."""
    area = mean_area([image.padded for image in images])
    parameters, macs = ours.parameters, mean_cost(images)
    steps = [(f"here, for {area:,.0f} px", parameters, macs)]
    if paper.overrides:
        parameters, macs = theirs.parameters, macs * theirs.macs / ours.macs
        steps.append(("the paper's network", parameters, macs))
    if paper.deformable != "all":
        parameters -= theirs.deformable_parameters if paper.deformable == "none" else 0
        macs *= 1 - theirs.deformable_macs / theirs.macs
        steps.append(("without deformable convolutions", parameters, macs))
    macs *= paper.area / area
    steps.append((f"for {paper.area:,.0f} px", parameters, macs))
    if paper.operations == 2:
        macs *= 2
        steps.append(("two operations per multiply-add", parameters, macs))
    if paper.binary:
        parameters, macs = round(parameters * 1e6 / 2**20), macs * 1e9 / 2**30
        steps.append(("in units of 2^20 and 2^30", parameters, macs))
    return steps


def mean_cost(images: Sequence[CountedImage]) -> float:
    """Mean multiply-adds per image."""
    return float(np.mean([image.cost.total for image in images]))


def mean_area(sizes: Sequence[Size]) -> float:
    """Mean height x width in pixels."""
    return float(np.mean([height * width for height, width in sizes]))


def times(size: Size) -> str:
    """`height x width`."""
    return f"{size[0]} x {size[1]}"
