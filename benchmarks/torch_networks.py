"""Networks of this package (backbone, neck and head) in plain PyTorch, without Paddle.

`train_cpu.py` compares the speed of training with them. Modules and parameters have the names and shapes that they have
in this package, so that `load` takes its weights. A network returns the head's outputs in the order of
`Detector.raw`, without anchors. B images, C channels, H, W size of a map.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS, WIDTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}, (64, 128, 256, 512)
STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}  # PyTorch's name -> this package's

Activation = Optional[Callable[[Tensor], Tensor]]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and, if one is given, an activation."""

    norm_name, norm_class = "norm", nn.BatchNorm2d

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, act: Activation = F.relu):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.act = act
        self.add_module(self.norm_name, self.norm_class(c_out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.get_submodule(self.norm_name)(self.conv(x))
        return x if self.act is None else self.act(x)


class FrozenNorm(nn.BatchNorm2d):
    """A batch norm that uses its running statistics in training, too, and learns nothing."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class FrozenConvNorm(ConvNorm):
    norm_class = FrozenNorm


class ConvMish(ConvNorm):
    norm_name = "batch_norm"

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__(c_in, c_out, kernel, stride, F.mish)


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or with `bottleneck` 1x1, 3x3 and 1x1 with the stride in the middle."""

    def __init__(self, c_in: int, width: int, stride: int, first: bool, bottleneck: bool, pools: bool, conv: Callable):
        super().__init__()
        c_out = width * 4 if bottleneck else width
        self.short: nn.Module = nn.Identity()
        if first and pools and stride == 2:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            self.short = nn.Sequential(OrderedDict(pool=pool, conv=conv(c_in, c_out, 1, act=None)))
        elif first:
            self.short = conv(c_in, c_out, 1, stride, act=None)
        if bottleneck:
            self.branch2a = conv(c_in, width, 1)
            self.branch2b = conv(width, width, 3, stride)
            self.branch2c = conv(width, c_out, 1, act=None)
        else:
            self.branch2a = conv(c_in, width, 3, stride)
            self.branch2b = conv(width, width, 3, act=None)
        self.bottleneck = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch2b(self.branch2a(x))
        return F.relu((self.branch2c(y) if self.bottleneck else y) + self.short(x))


class ResNet(nn.Module):
    """The stages up to the last of `returned` (from 0). Variant b, or d with `pools`; `frozen`: the batch norms, and
    the weights of the stem and the first stage."""

    def __init__(self, depth: int, width_mult: float, pools: bool, returned: Sequence[int], frozen: bool):
        super().__init__()
        conv = FrozenConvNorm if frozen else ConvNorm
        stem, widths = int(64 * width_mult), [int(width * width_mult) for width in WIDTHS]
        names, half = ["conv1_1", "conv1_2", "conv1_3"] if pools else ["conv1"], stem // 2
        convs = [conv(3, half, 3, 2), conv(half, half, 3), conv(half, stem, 3)] if pools else [conv(3, stem, 7, 2)]
        self.conv1 = nn.Sequential(OrderedDict(zip(names, convs)))
        c_in, self.channels, self.returned = stem, [], returned
        self.names = [f"res{i + 2}" for i in range(max(returned) + 1)]
        for i, name in enumerate(self.names):
            stage: Dict[str, nn.Module] = OrderedDict()
            for j in range(BLOCKS[depth][i]):
                stride = 2 if i > 0 and j == 0 else 1
                stage[f"{name}{chr(ord('a') + j)}"] = Block(c_in, widths[i], stride, j == 0, depth > 34, pools, conv)
                c_in = widths[i] * (4 if depth > 34 else 1)
            self.add_module(name, nn.Sequential(stage))
            if i in returned:
                self.channels.append(c_in)
        if frozen:
            self.conv1.requires_grad_(False)
            self.get_submodule("res2").requires_grad_(False)

    def forward(self, image: Tensor) -> List[Tensor]:
        """[B, 3, H, W] -> the maps of `returned`, finest first."""
        x, maps = F.max_pool2d(self.conv1(image), 3, 2, 1), []
        for i, name in enumerate(self.names):
            x = self.get_submodule(name)(x)
            if i in self.returned:
                maps.append(x)
        return maps


def tower(channels: int, depth: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """`depth` times 3x3 convolution, norm and ReLU."""
    layers: List[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), norm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class DilatedBlock(nn.Module):
    """Of YOLOF's encoder: 1x1, dilated 3x3 and 1x1 convolution; the input is added."""

    def __init__(self, channels: int, middle: int, dilation: int):
        super().__init__()
        convs = [nn.Conv2d(channels, middle, 1), nn.Conv2d(middle, middle, 3, 1, dilation, dilation)]
        for i, conv in enumerate([*convs, nn.Conv2d(middle, channels, 1)]):
            self.add_module(f"conv{i + 1}", nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(self.conv2(self.conv1(x)))


class DilatedEncoder(nn.Module):
    """YOLOF's encoder of one map."""

    def __init__(self, c_in: int, channels: int, middle: int):
        super().__init__()
        self.lateral_conv, self.lateral_norm = nn.Conv2d(c_in, channels, 1), nn.BatchNorm2d(channels)
        self.fpn_conv, self.fpn_norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.dilated_encoder_blocks = nn.Sequential(*[DilatedBlock(channels, middle, d) for d in (2, 4, 6, 8)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.fpn_norm(self.fpn_conv(self.lateral_norm(self.lateral_conv(x))))
        return self.dilated_encoder_blocks(x)


def subnets(channels: int, depths: Tuple[int, int], norm: Callable[[int], nn.Module]) -> nn.ModuleDict:
    """A head's two branches, for classes and for boxes."""
    names = "cls_subnet", "reg_subnet"
    return nn.ModuleDict({name: tower(channels, depth, norm) for name, depth in zip(names, depths)})


class YOLOFHead(nn.Module):
    """Five anchors per location."""

    def __init__(self, channels: int, depths: Tuple[int, int], classes: int):
        super().__init__()
        self.classes = classes
        self.conv_feat = subnets(channels, depths, nn.BatchNorm2d)
        self.cls_score = nn.Conv2d(channels, 5 * classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, 5 * 4, 3, padding=1)
        self.object_pred = nn.Conv2d(channels, 5, 3, padding=1)

    def forward(self, x: Tensor) -> List[Tensor]:
        """[B, C, H, W] -> logits [B, 5*H*W, K], deltas [B, 5*H*W, 4]."""
        for_classes, for_boxes = (subnet(x) for subnet in self.conv_feat.values())
        logits = rows(self.cls_score(for_classes), self.classes)
        objectness, deltas = rows(self.object_pred(for_boxes), 1), rows(self.bbox_pred(for_boxes), 4)
        exponentials = logits.exp().clamp(max=1e8) + objectness.exp().clamp(max=1e8)
        return [logits + objectness - (1.0 + exponentials).log(), deltas]


def rows(x: Tensor, width: int) -> Tensor:
    """[B, A*width, H, W] -> [B, H*W*A, width]."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, width)


class YOLOF(nn.Module):
    def __init__(self, classes: int, backbone: ResNet, channels: int, middle: int, depths: Tuple[int, int]):
        super().__init__()
        self.backbone = backbone
        self.neck = DilatedEncoder(backbone.channels[0], channels, middle)
        self.head = YOLOFHead(channels, depths, classes)

    def forward(self, image: Tensor) -> List[Tensor]:
        return self.head(self.neck(self.backbone(image)[0]))


class SPP(nn.Module):
    """The map beside its maxima over windows, and a 1x1 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = ConvMish(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x, *[F.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13)]], 1))


class SplitBlock(nn.Module):
    """Of PP-YOLOv2's neck: 1x1 and 3x3 convolutions beside a 1x1 convolution, joined by another one."""

    def __init__(self, c_in: int, channels: int, pools: bool = False):
        super().__init__()
        self.conv1, self.conv2 = ConvMish(c_in, channels, 1), ConvMish(c_in, channels, 1)
        self.conv3 = ConvMish(2 * channels, 2 * channels, 1)
        layers: Dict[str, nn.Module] = OrderedDict()
        for i in range(3):
            layers[str(i)] = nn.Sequential(ConvMish(channels, channels, 1))
            if i == 1 and pools:
                layers["spp"] = SPP(channels)
            else:
                layers[str(i)].append(ConvMish(channels, channels, 3))
        self.conv_module = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.conv_module(self.conv1(x)), self.conv2(x)], 1))


class PAN(nn.Module):
    """PP-YOLOv2's neck without DropBlock; `width` is that of the coarsest block."""

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        self.widths = widths = [width // 2**i for i in range(len(channels))]  # coarsest first
        ins = [c + (widths[i - 1] if i else 0) for i, c in enumerate(reversed(channels))]
        self.fpn = nn.ModuleList([SplitBlock(c, w, i == 0) for i, (c, w) in enumerate(zip(ins, widths))])
        self.fpn_transition = nn.ModuleList([ConvMish(2 * w, w, 1) for w in widths[:-1]])
        self.pan = nn.ModuleList([SplitBlock(2 * w + 2 * finer, w) for w, finer in zip(widths, widths[1:])])
        self.pan_transition = nn.ModuleList([ConvMish(2 * w, 2 * w, 3, 2) for w in widths[1:]])

    def forward(self, maps: List[Tensor]) -> List[Tensor]:
        """Finest first -> coarsest first."""
        down = [self.fpn[0](maps[-1])]
        for x, transition, block in zip(maps[-2::-1], self.fpn_transition, self.fpn[1:]):
            route = F.interpolate(transition(down[-1]), scale_factor=2.0)
            down.append(block(torch.cat([route, x], 1)))
        up = [down[-1]]
        for i in reversed(range(len(self.pan))):
            up.append(self.pan[i](torch.cat([self.pan_transition[i](up[-1]), down[i]], 1)))
        return up[::-1]


class YOLOv3Head(nn.Module):
    """One 1x1 convolution per level; three anchors with their IoU per cell."""

    def __init__(self, channels: Sequence[int], classes: int):
        super().__init__()
        self.yolo_output = nn.ModuleList([nn.Conv2d(c, 3 * (6 + classes), 1) for c in channels])

    def forward(self, maps: List[Tensor]) -> List[Tensor]:
        return [conv(x) for conv, x in zip(self.yolo_output, maps)]


class PPYOLOv2(nn.Module):
    """PP-YOLOv2 without deformable convolutions and DropBlock."""

    def __init__(self, classes: int, backbone: ResNet, width: int):
        super().__init__()
        self.backbone, self.neck = backbone, PAN(backbone.channels, width)
        self.yolo_head = YOLOv3Head([2 * w for w in self.neck.widths], classes)

    def forward(self, image: Tensor) -> List[Tensor]:
        return self.yolo_head(self.neck(self.backbone(image)))


class FPN(nn.Module):
    """P3 to P7; P6 is made from C5."""

    def __init__(self, channels: Sequence[int], out: int):
        super().__init__()
        self.laterals = ["fpn_inner_res3_sum_lateral", "fpn_inner_res4_sum_lateral", "fpn_inner_res5_sum"]
        self.outputs = [f"fpn_res{i}_sum" for i in (3, 4, 5)]
        for lateral, output, c in zip(self.laterals, self.outputs, channels):
            self.add_module(lateral, nn.Conv2d(c, out, 1))
            self.add_module(output, nn.Conv2d(out, out, 3, padding=1))
        self.fpn_6, self.fpn_7 = (nn.Conv2d(c, out, 3, 2, 1) for c in (channels[-1], out))

    def forward(self, maps: List[Tensor]) -> List[Tensor]:
        sums = [self.get_submodule(name)(x) for name, x in zip(self.laterals, maps)]
        for i in (1, 0):
            sums[i] = sums[i] + F.interpolate(sums[i + 1], scale_factor=2.0)
        p6 = self.fpn_6(maps[-1])
        return [*[self.get_submodule(name)(x) for name, x in zip(self.outputs, sums)], p6, self.fpn_7(p6)]


class SAPDHead(nn.Module):
    """Anchor points, two convolutions with group norm per subnet; the subnets are the same for all levels."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.conv_feat = subnets(channels, (2, 2), lambda c: nn.GroupNorm(c // 16, c))
        self.cls_score = nn.Conv2d(channels, classes, 3, padding=1)
        self.distance_pred = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, maps: List[Tensor]) -> List[Tensor]:
        """The levels -> logits [B, K, H, W] of each, distances [B, 4, H, W] of each, the levels themselves."""
        logits = [self.cls_score(self.conv_feat["cls_subnet"](x)) for x in maps]
        distances = [F.relu(self.distance_pred(self.conv_feat["reg_subnet"](x))) for x in maps]
        return [*logits, *distances, *maps]


class SAPD(nn.Module):
    """SAPD without the network that selects levels, which is a part of the loss."""

    def __init__(self, classes: int, backbone: ResNet, channels: int):
        super().__init__()
        self.backbone, self.neck = backbone, FPN(backbone.channels, channels)
        self.head = SAPDHead(channels, classes)

    def forward(self, image: Tensor) -> List[Tensor]:
        return self.head(self.neck(self.backbone(image)))


small = partial(ResNet, 18, 0.5, True, frozen=False)
NETWORKS: Dict[str, Callable[[int], nn.Module]] = {  # the name of a config -> from the number of classes to its network
    "yolof_r50_c5_1x_coco": lambda k: YOLOF(k, ResNet(50, 1.0, False, [3], frozen=True), 512, 128, (2, 4)),
    "yolof_demo": lambda k: YOLOF(k, small([1]), 64, 32, (1, 2)),
    "ppyolov2_r18vd_256_bccd": lambda k: PPYOLOv2(k, small([1, 2, 3]), 128),
    "sapd_r18vd_256_synthetic": lambda k: SAPD(k, small([1, 2, 3]), 64),
}


def load(network: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Take the weights of a Paddle model by name. RuntimeError: a name or a shape is another one, or one is missing."""
    own = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    theirs = {own_name(name): torch.from_numpy(values) for name, values in weights.items()}
    if differing := sorted(own ^ set(theirs)):
        raise RuntimeError(f"{len(differing)} parameters of one network only, such as {differing[-1]}")
    network.load_state_dict(theirs, strict=False)  # it raises an error for other shapes


def own_name(name: str) -> str:
    """The name that a parameter or statistic of a Paddle model has in a network."""
    for own, paddles in STATISTICS.items():
        name = name[: -len(paddles)] + own if name.endswith(f".{paddles}") else name
    return name
