"""Feature pyramids P3 to P7 fused cell by cell: BiFPN, and what its paper compares it with.

B images, C channels, H, W a level's map; levels count from 3, stride 8.
Source: "An anchor-free object detector based on soften optimized bi-directional FPN", CVIU 2022, sections 3.1 and 3.2
(here "the paper"); the other wiring and the layers of a node: Tan et al., "EfficientDet", CVPR 2020.
"""

from __future__ import annotations

import math
from typing import Dict, List, Literal, NamedTuple, Sequence, Tuple

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, TruncatedNormal

from ppdet_repro.core.registry import Shared, Upstream, register
from ppdet_repro.modeling.layers import batch_norm, nearest
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

FIRST, LAST = 3, 7  # levels
LEVELS = range(FIRST, LAST + 1)
MOMENTUM, EPSILON = 0.99, 1e-3  # of all batch norms
WEIGHT_EPSILON = 1e-4  # of equation 1
CUT = 0.87962566103423978  # the standard deviation of a normal distribution that is cut at 2


class Node(NamedTuple):
    """A map of a cell and what is fused in it, each named by its kind and level: i the cell's input, t what came down
    from coarser levels, o the cell's output. A level without o puts its input out."""

    name: str
    sources: Tuple[str, ...]


def wiring(*rows: str) -> Tuple[Node, ...]:
    """Nodes in the order in which they are computed, from lines "node: sources"."""
    pairs = (row.split(": ") for row in rows)
    return tuple(Node(name, tuple(sources.split())) for name, sources in pairs)


# The paper's equation 2, which it writes out for level 5; what does not exist at another level is left out there.
PAPER = wiring(
    "t6: i6 i7", "t5: i5 i6 t6", "t4: i4 i5 t5", "o3: i3 i4 t4",
    "o4: i4 t4 t5 o3", "o5: i5 t5 t6 o4", "o6: i6 t6 o5", "o7: i7 o6",
)  # fmt: skip
EFFICIENTDET = wiring(
    "t6: i6 i7", "t5: i5 t6", "t4: i4 t5", "o3: i3 t4",
    "o4: i4 t4 o3", "o5: i5 t5 o4", "o6: i6 t6 o5", "o7: i7 o6",
)  # fmt: skip
TOP_DOWN = wiring("o6: i6 i7", "o5: i5 o6", "o4: i4 o5", "o3: i3 o4")
DOWN_AND_UP = wiring(
    "t6: i6 i7", "t5: i5 t6", "t4: i4 t5", "o3: i3 t4", "o4: t4 o3", "o5: t5 o4", "o6: t6 o5", "o7: i7 o6"
)
WIRINGS = {"paper": PAPER, "efficientdet": EFFICIENTDET}


def level_of(name: str) -> int:
    """The level of a cell's map: t5 -> 5."""
    return int(name[1])


def conv(in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> nn.Conv2D:
    """Convolution of unchanged size without bias, weights of variance 1 / fan-in."""
    std = 1 / math.sqrt(in_channels // groups * kernel_size**2) / CUT
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        groups=groups,
        weight_attr=ParamAttr(initializer=TruncatedNormal(0.0, std)),
        bias_attr=False,
    )


def norm(channels: int, norm_type: str) -> nn.BatchNorm2D:
    """A neck's batch norm."""
    return batch_norm(channels, norm_type, None, momentum=MOMENTUM, epsilon=EPSILON)


def halve(x: paddle.Tensor) -> paddle.Tensor:
    """Max pooling 3x3 of stride 2; an even side is padded at its end alone: [B, C, H, W] -> half of H and W, rounded
    up."""
    return F.max_pool2d(x, 3, stride=2, padding="SAME")


def enlarge(x: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    """Nearest neighbours, to the height and width of `like`."""
    return nearest(x, like.shape[2], like.shape[3])


class Lateral(nn.Layer):
    """1x1 convolution and batch norm."""

    def __init__(self, in_channels: int, channels: int, norm_type: str):
        super().__init__()
        self.conv = conv(in_channels, channels)
        self.norm = norm(channels, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.norm(self.conv(x))


class Fusion(nn.Layer):
    """A mean of `inputs` maps with weights that are learned (those below 0 count as 0), swish, depthwise separable
    convolution, batch norm. The paper, equations 1 and 2."""

    def __init__(self, inputs: int, channels: int, norm_type: str):
        super().__init__()
        self.weights = self.create_parameter([inputs], default_initializer=Constant(1.0))
        self.depthwise = conv(channels, channels, 3, groups=channels)
        self.pointwise = conv(channels, channels)
        self.norm = norm(channels, norm_type)

    def forward(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """Maps of one size -> one map."""
        return self.convolve(sum(share * x for share, x in zip(self.shares().unbind(), maps)))

    def shares(self) -> paddle.Tensor:
        """What each map is multiplied by [inputs]."""
        weights = F.relu(self.weights)
        return weights / (weights.sum() + WEIGHT_EPSILON)

    def convolve(self, fused: paddle.Tensor) -> paddle.Tensor:
        """What follows the mean."""
        return self.norm(self.pointwise(self.depthwise(F.swish(fused))))


class Cell(nn.Layer):
    """One pass over all levels, wired by a list of nodes."""

    def __init__(self, nodes: Sequence[Node], channels: int, norm_type: str):
        super().__init__()
        self.nodes = tuple(nodes)
        for node in self.nodes:
            self.add_sublayer(node.name, Fusion(len(node.sources), channels, norm_type))

    def forward(self, levels: Sequence[paddle.Tensor]) -> List[paddle.Tensor]:
        """Levels, finest first -> as many of the same sizes."""
        maps = {f"i{level}": x for level, x in zip(LEVELS, levels)}
        for node in self.nodes:
            maps[node.name] = getattr(self, node.name)(self.resized(node, maps))
        return [maps.get(f"o{level}", maps[f"i{level}"]) for level in LEVELS]

    def resized(self, node: Node, maps: Dict[str, paddle.Tensor]) -> List[paddle.Tensor]:
        """A node's sources in its own level's size; none is more than one level away."""
        level, found = level_of(node.name), []
        for source in node.sources:
            x = maps[source]
            if level_of(source) < level:
                x = halve(x)
            elif level_of(source) > level:
                x = enlarge(x, maps[f"i{level}"])
            found.append(x)
        return found


class FusedPyramid(nn.Layer):
    """P3 to P5 from C3 to C5 by a 1x1 convolution and batch norm each, P6 so from C5 and halved, P7 halved again; then
    `repeats` cells of `nodes`, each with its own weights."""

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        channels: int,
        nodes: Sequence[Node],
        repeats: int,
        norm_type: str,
    ):
        super().__init__()
        owner = type(self).__name__
        if len(in_channels) != 3:
            raise UserError(f"{owner}: in_channels {list(in_channels)} are not those of three maps, C3 to C5")
        self.laterals = nn.LayerList([Lateral(c, channels, norm_type) for c in (*in_channels, in_channels[-1])])
        self.cells = nn.LayerList([Cell(nodes, channels, norm_type) for _ in range(repeats)])
        strides = [*strides, 2 * strides[-1], 4 * strides[-1]]
        self.out_shape = [ShapeSpec(channels, stride) for stride in strides]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """C3, C4, C5 -> P3 to P7, finest first."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, (*feats, feats[-1]))]
        levels[-1] = halve(levels[-1])
        levels.append(halve(levels[-1]))
        for cell in self.cells:
            levels = cell(levels)
        return levels


@register
class BiFPN(FusedPyramid):
    """Bidirectional pyramid. `wiring` paper: the paper's equation 2, where each node also sees the input above it and
    each output the map above it on the way down; efficientdet: without these."""

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        out_channel: int = 256,
        repeats: int = 3,
        wiring: Literal["paper", "efficientdet"] = "paper",
        norm_type: Shared[str] = "bn",
    ):
        super().__init__(in_channels, strides, out_channel, WIRINGS[wiring], repeats, norm_type)


@register
class CellFPN(FusedPyramid):
    """Every level sees what the coarser ones see, made of BiFPN's nodes (the paper, figure 2b)."""

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        out_channel: int = 256,
        repeats: int = 3,
        norm_type: Shared[str] = "bn",
    ):
        super().__init__(in_channels, strides, out_channel, TOP_DOWN, repeats, norm_type)


@register
class CellPANet(FusedPyramid):
    """Down as CellFPN, then up again, made of BiFPN's nodes (the paper, figure 2c)."""

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        out_channel: int = 256,
        repeats: int = 3,
        norm_type: Shared[str] = "bn",
    ):
        super().__init__(in_channels, strides, out_channel, DOWN_AND_UP, repeats, norm_type)


@register
class NoFusion(FusedPyramid):
    """The levels as they come from the backbone, each for itself (the paper, figure 2a)."""

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        out_channel: int = 256,
        norm_type: Shared[str] = "bn",
    ):
        super().__init__(in_channels, strides, out_channel, (), 0, norm_type)
