"""How large a model is and what one image costs: parameters and multiply-adds, by part.

Counted are convolutions (dilated, grouped, transposed, and deformable ones with the convolution that predicts
their offsets) and linear layers, each as often as it is called; zero padding counts as image. Not counted:
bias, normalisation, activation, pooling, resizing, sums, a deformable convolution's sampling, decoding, NMS.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.core.config import build, build_model, load_config
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.utils.table import text_table

COUNTED = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear, DeformConv2D)
RUNNING_STATISTICS = ("._mean", "._variance")
PICTURES = ((480, 640), (480, 800))  # COCO's most common picture; 800 x 1333 with both sides used up

Size = Tuple[int, int]  # height, width in pixels


class Parameters(NamedTuple):
    """Numbers of parameters, batch norm's running statistics left out; `trainable`: not frozen."""

    total: int
    trainable: int


class Cost(NamedTuple):
    """Multiply-adds of one image by part, and layers with a weight that took no part in it."""

    parts: Dict[str, int]
    idle: List[str]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


class Published(NamedTuple):
    """A paper's figures, and what it counted in comparison with us."""

    source: str
    parameters: float
    macs: float
    pictures: str
    area: float  # mean of the pictures after resizing, pixels
    mean_of: str  # where `area` is from
    network: str  # how the paper's network differs from the config's
    overrides: Tuple[str, ...]  # which make the config's the paper's


AREA = 888_261.0, "mean area, not padded, of 100 other COCO pictures resized likewise (--anno counts yours)"
PADDED_AREA = 903_537.0, "the same pictures padded to multiples of 32, as detectron2 pads for a pyramid"
VARIANT_A = "the paper's ResNet is variant a, which halves the map in a block's 1x1 convolution", ("ResNet.variant=a",)
PLAIN_RESNEXT = "the paper's ResNeXt is plain, variant b, not d", ("ResNet.variant=b",)


def yolof_row(
    millions: float, giga: float, area: Tuple[float, str] = AREA, network: Tuple[str, Tuple[str, ...]] = VARIANT_A
) -> Published:
    """A row of YOLOF's Table 1."""
    pictures = "the first 100 of COCO val2017, short edge 800"
    return Published("YOLOF, Table 1", millions * 1e6, giga * 1e9, pictures, *area, *network)


YOLOF_R50 = yolof_row(44, 86)
YOLOF_X101 = yolof_row(102, 289, network=PLAIN_RESNEXT)
RETINANET_R50, RETINANET_R101 = yolof_row(38, 201, PADDED_AREA), yolof_row(57, 266, PADDED_AREA)
PAPERS = {
    "yolof_r50_c5_1x_coco": YOLOF_R50,
    "yolof_r50_c5_1x_coco_paper": YOLOF_R50,
    "yolof_r101_c5_1x_coco": yolof_row(63, 151),
    "yolof_x101_64x4d_c5_1x_coco": YOLOF_X101,
    "yolof_x101_64x4d_c5_3x_ms_coco": YOLOF_X101,
    "retinanet_r50_1x_coco": RETINANET_R50,
    "retinanet_plus_r50_1x_coco": RETINANET_R50,
    "retinanet_r101_1x_coco": RETINANET_R101,
    "retinanet_plus_r101_1x_coco": RETINANET_R101,
}


class TableRow(NamedTuple):
    """A row of PAFNet's Table 1, which says 512 px. Its figures are those of 608 px, with two operations for
    a multiply-add and without the deformable convolutions, their weights too: so all rows agree to 0.5 %."""

    letter: str
    parameters: float
    flops: float
    network: str = ""  # how the network that the figures belong to differs from the config's
    overrides: Tuple[str, ...] = ()  # which make the config's that network


TABLE_SIZE = 608
THREE_STAGES = ("with three deformable stages, as published", ("ResNet.dcn_v2_stages=[1, 2, 3]",))
PAFNET_ROWS = {
    "ttfnet_darknet53_1x_coco": TableRow("A", 43.00e6, 134.97e9),
    "table1_b_ags_1x_coco": TableRow("B", 27.74e6, 104.44e9),
    "table1_c_ssld_1x_coco": TableRow("C", 27.74e6, 104.44e9),
    "table1_d_4x_coco": TableRow("D", 27.74e6, 104.44e9),
    "table1_e_cutmix_ema_4x_coco": TableRow("E", 27.74e6, 104.44e9),
    "table1_f_dcn_4x_coco": TableRow("F", 17.18e6, 75.21e9, *THREE_STAGES),
    "table1_g_10x_coco": TableRow("G", 17.18e6, 75.21e9, *THREE_STAGES),
    "pafnet_10x_coco": TableRow("G", 17.18e6, 75.21e9),
}


class YoloRow(NamedTuple):
    """A row of PP-YOLOv2's Table 1. Its GFLOPs are multiply-adds without those of the deformable convolutions
    (whose weights do count as parameters): rows B to E agree to 0.1 %. Row A cannot be had."""

    letter: str
    size: int  # the input's side, pixels
    parameters: float
    macs: float
    remark: Tuple[str, ...] = ()


YOLO_ROW_A = YoloRow(
    "A",
    608,
    45e6,
    45.1e9,
    (
        "What is left of row A no counting explains: rows B to E fit the same rule, and share its backbone and head.",
        "Paper, B - A: 9 M and 6.9 GFLOPs. The two necks differ by 7.5 M and 3.5 (30.22 - 22.68 M, 21.86 - 18.32).",
        "PP-YOLO's neck without any one of its extras is no nearer: SPP has 1.05 M and 0.38 GFLOPs, the coordinates",
        "0.04 M and 0.05. The size would have to be 587 px, and that would not change the parameters.",
    ),
)
YOLO_ROWS = {
    "table1_a_coco": YOLO_ROW_A,
    "ppyolo_r50vd_dcn_1x_coco": YOLO_ROW_A,
    "table1_b_pan_mish_coco": YoloRow("B", 608, 54e6, 52.0e9),
    "table1_c_640_coco": YoloRow("C", 640, 54e6, 57.6e9),
    "table1_d_768_coco": YoloRow("D", 640, 54e6, 57.6e9),
    "table1_e_iou_aware_coco": YoloRow("E", 640, 54e6, 57.6e9),
    "ppyolov2_r50vd_dcn_365e_coco": YoloRow("E", 640, 54e6, 57.6e9),
}


def count_parameters(layer: nn.Layer) -> Parameters:
    """The parameters of a layer and of all inside it; a shared one counts once."""
    counted = [p for name, p in layer.named_parameters() if not ("." + name).endswith(RUNNING_STATISTICS)]
    sizes = [math.prod(p.shape) for p in counted]
    return Parameters(sum(sizes), sum(n for n, p in zip(sizes, counted) if not p.stop_gradient))


def multiply_adds(layer: nn.Layer, source: paddle.Tensor, output: paddle.Tensor) -> int:
    """What one call of a layer of `COUNTED` costs."""
    shape = layer.weight.shape
    if isinstance(layer, nn.Linear):  # weight [in, out]
        return math.prod(output.shape) * shape[0]
    if isinstance(layer, nn.Conv2DTranspose):  # weight [in, out / groups, kh, kw], for each input value
        return math.prod(source.shape) * math.prod(shape[1:])
    return math.prod(output.shape) * math.prod(shape[1:])  # weight [out, in / groups, kh, kw]


def count(model: nn.Layer, run: Callable[[], object], kinds: Tuple[type, ...] = COUNTED) -> Cost:
    """Multiply-adds of `run()`, which calls `model`, in layers of some kinds; the parts are the model's
    children ("" is itself)."""
    parts: Dict[str, int] = {name: 0 for name, _ in model.named_children()}
    called = set()

    def watch(name: str, layer: nn.Layer):
        part = name.split(".")[0]

        def hook(layer, inputs, output):
            parts[part] = parts.get(part, 0) + multiply_adds(layer, inputs[0], output)
            called.add(name)

        return layer.register_forward_post_hook(hook)

    layers = dict(model.named_sublayers(include_self=True))
    hooks = [watch(name, layer) for name, layer in layers.items() if isinstance(layer, kinds)]
    training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
        if training:
            model.train()
    idle = [name for name, layer in layers.items() if name not in called and has_weight(layer)]
    return Cost(parts, idle)


def has_weight(layer: nn.Layer) -> bool:
    """Does the layer itself, without those inside it, own a parameter of two or more dimensions?"""
    return any(len(p.shape) > 1 for p in layer.parameters(include_sublayers=False))


def count_image(model: Detector, size: Size) -> Cost:
    """Multiply-adds of the network on one image of that input size."""
    image = paddle.zeros([1, 3, *size])
    return count(model, lambda: model.raw(image))


def input_size(preprocess: Preprocess, picture: Size) -> Tuple[Size, Size]:
    """What preprocessing makes of a picture of that size: resized, and padded as the network sees it."""
    inputs = preprocess([np.zeros((*picture, 3), np.uint8)])
    height, width = inputs.im_shape[0]
    return (int(height), int(width)), (inputs.image.shape[2], inputs.image.shape[3])


class Image(NamedTuple):
    """A picture's size on its way into the network, and the network's cost."""

    picture: Optional[Size]
    resized: Size
    padded: Size
    cost: Cost


def count_pictures(model: Detector, preprocess: Preprocess, pictures: Sequence[Size]) -> List[Image]:
    """The cost of each picture after preprocessing; equal input sizes are counted once."""
    costs: Dict[Size, Cost] = {}
    images = []
    for picture in pictures:
        resized, padded = input_size(preprocess, picture)
        if padded not in costs:
            costs[padded] = count_image(model, padded)
        images.append(Image(picture, resized, padded, costs[padded]))
    return images


def model_info(
    path: str, overrides: Sequence[str] = (), size: Optional[Size] = None, pictures: Sequence[Size] = ()
) -> str:
    """The report on a config's model.

    size      count at this input size alone
    pictures  count the mean over pictures of these sizes after the config's evaluation transforms; without
              both, two typical ones

    Raises:
        UserError: the config has mistakes.
    """
    config = load_config(path, overrides)
    model = build_model(config)
    if size is not None:
        images = [Image(None, size, size, count_image(model, size))]
    else:
        preprocess = Preprocess(build(config, "EvalReader").preprocess)
        images = count_pictures(model, preprocess, pictures or PICTURES)
    counted = images if pictures else images[-1:]
    parts = {name: float(np.mean([i.cost.parts[name] for i in counted])) for name in counted[0].cost.parts}
    lines = [f"{config.name}: {config.run.architecture}", "", parts_table(model, parts), ""]
    lines += [mean_line(images)] if pictures else [image_line(image) for image in images]
    lines += [
        "Sizes are height x width. GFLOPs are 1e9 multiply-adds of convolutions (deformable ones and their",
        "offsets too) and linear layers; not of batch norm, activations, sums, resizing, decoding, NMS.",
        "Parameters are without batch norm's running statistics.",
    ]
    if counted[0].cost.idle:
        lines.append(f"Not run, so not counted: {', '.join(counted[0].cost.idle)}")
    if config.name in PAPERS:
        paper = PAPERS[config.name]
        theirs = build_model(load_config(path, [*overrides, *paper.overrides]))
        factor = count_image(theirs, counted[-1].padded).total / counted[-1].cost.total
        lines += ["", *comparison(paper, count_parameters(model).total, counted, factor)]
    if config.name in PAFNET_ROWS:
        row = PAFNET_ROWS[config.name]
        theirs = build_model(load_config(path, [*overrides, *row.overrides]))
        lines += ["", *row_comparison(row, model, theirs, counted[-1].padded)]
    if config.name in YOLO_ROWS:
        lines += ["", *yolo_comparison(YOLO_ROWS[config.name], model, counted[-1].padded)]
    return "\n".join(lines)


def parts_table(model: nn.Layer, macs: Dict[str, float]) -> str:
    """A line a part: parameters, trainable ones, GFLOPs."""
    rows = [(name, *count_parameters(part), macs[name]) for name, part in model.named_children()]
    rows.append(("total", *count_parameters(model), sum(macs.values())))
    cells = [(name, f"{n / 1e6:.2f} M", f"{t / 1e6:.2f} M", f"{m / 1e9:.2f}") for name, n, t, m in rows]
    return text_table(["part", "parameters", "trainable", "GFLOPs"], cells)


def image_line(image: Image) -> str:
    """One counted input size in words, height x width."""
    words = [f"{image.cost.total / 1e9:.2f} GFLOPs at {times(image.padded)}"]
    if image.resized != image.padded:
        words.append(f"({times(image.resized)} padded)")
    if image.picture is not None:
        words.append(f"from a picture of {times(image.picture)}")
    return " ".join(words)


def mean_line(images: Sequence[Image]) -> str:
    """The mean cost of pictures of many sizes, and their mean areas."""
    return (
        f"{mean_cost(images) / 1e9:.2f} GFLOPs, the mean over {len(images)} pictures: mean area "
        f"{mean_area([i.resized for i in images]):,.0f} px resized, "
        f"{mean_area([i.padded for i in images]):,.0f} px padded"
    )


def comparison(paper: Published, parameters: int, images: Sequence[Image], network: float) -> List[str]:
    """From our cost to the paper's: our mean area to its, then our network to its (factor `network`)."""
    cost, area = mean_cost(images), mean_area([i.padded for i in images])
    scaled = cost * paper.area / area
    result = scaled * network
    theirs, ours = f"{paper.parameters / 1e6:.0f} M parameters", f"{parameters / 1e6:.2f} M"
    steps = [
        (cost, f"here, for {area:,.0f} px with padding; the cost goes with the area"),
        (scaled, f"x {paper.area:,.0f} / {area:,.0f}: {paper.mean_of}"),
        (result, f"x {network:.4f}: {paper.network}"),
        (paper.macs, f"the paper's; {result / paper.macs - 1:+.1%} is left"),
    ]
    return [
        f"The paper ({paper.source}): {theirs}; here {ours} ({parameters / paper.parameters - 1:+.1%}).",
        f"The paper: {paper.macs / 1e9:.0f} GFLOPs, a mean over {paper.pictures}. From here to there:",
        *(f"  {macs / 1e9:7.2f}  {words}" for macs, words in steps),
    ]


def row_comparison(row: TableRow, model: Detector, theirs: Detector, size: Size) -> List[str]:
    """From our counts, of `model` at an input size, to a row's, of `theirs`."""
    image = paddle.zeros([1, 3, *size])
    deformable = count(theirs, lambda: theirs.raw(image), (DeformConv2D,)).total
    weights = sum(layer.weight.size for layer in theirs.sublayers() if isinstance(layer, DeformConv2D))
    parameters, macs = count_parameters(theirs).total, count_image(theirs, size).total
    area = TABLE_SIZE**2 / (size[0] * size[1])
    flops = 2 * (macs - deformable) * area
    steps = [("here", count_parameters(model).total, count_image(model, size).total)]
    steps += [(row.network, parameters, macs)] if row.network else []
    steps += [
        ("without deformable convolutions", parameters - weights, macs - deformable),
        (f"at {TABLE_SIZE} x {TABLE_SIZE}", parameters - weights, (macs - deformable) * area),
        ("two operations a multiply-add", parameters - weights, flops),
    ]
    cells = [(words, f"{n / 1e6:.2f} M", f"{m / 1e9:.2f}") for words, n, m in steps]
    left = f"{(parameters - weights) / row.parameters - 1:+.1%}", f"{flops / row.flops - 1:+.1%}"
    cells += [("the paper's", f"{row.parameters / 1e6:.2f} M", f"{row.flops / 1e9:.2f}"), ("left", *left)]
    title = f"PAFNet, Table 1, row {row.letter}"
    return text_table([title, "parameters", "GFLOPs"], cells).splitlines()


def yolo_comparison(row: YoloRow, model: Detector, size: Size) -> List[str]:
    """From our counts at an input size to a row's."""
    image = paddle.zeros([1, 3, *size])
    parameters, macs = count_parameters(model).total, count_image(model, size).total
    plain = macs - count(model, lambda: model.raw(image), (DeformConv2D,)).total
    scaled = plain * row.size**2 / (size[0] * size[1])
    steps = [("here", macs), ("without deformable convolutions", plain), (f"at {row.size} x {row.size}", scaled)]
    cells = [(words, f"{parameters / 1e6:.2f} M", f"{m / 1e9:.2f}") for words, m in steps]
    left = f"{parameters / row.parameters - 1:+.1%}", f"{scaled / row.macs - 1:+.1%}"
    cells += [("the paper's", f"{row.parameters / 1e6:.0f} M", f"{row.macs / 1e9:.1f}"), ("left", *left)]
    table = text_table([f"PP-YOLOv2, Table 1, row {row.letter}", "parameters", "GFLOPs"], cells)
    return [*table.splitlines(), *row.remark]


def mean_cost(images: Sequence[Image]) -> float:
    """Mean multiply-adds of an image."""
    return float(np.mean([image.cost.total for image in images]))


def mean_area(sizes: Sequence[Size]) -> float:
    """Mean height x width, pixels."""
    return float(np.mean([height * width for height, width in sizes]))


def times(size: Size) -> str:
    """`height x width`."""
    return f"{size[0]} x {size[1]}"
