"""Feature pyramids P3 to P7 that are fused by a series of cells: BiFPN, and the necks its paper compares it with.

B images, C channels; H, W size of a feature map. Levels are numbered from 3 (stride 8).
Source: "An anchor-free object detector based on soften optimized bi-directional FPN", CVIU 2022, sections 3.1 and 3.2
(here "the paper"); the other wiring and the layers of a node: Tan et al., "EfficientDet", CVPR 2020.
"""

from __future__ import annotations

import math
from typing import Dict, List, Literal, NamedTuple, Sequence, Tuple

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, TruncatedNormal

from ppdet_repro.core.registry import Shared, Upstream, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import ConvNorm, batch_norm, conv2d, nearest
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.modeling.sizes import sizes
from ppdet_repro.utils.errors import UserError

LEVELS = range(3, 8)
MOMENTUM, EPSILON = 0.99, 1e-3  # of all batch norms
WEIGHT_EPSILON = 1e-4  # of equation 1
TRUNCATED_STD = 0.87962566103423978  # standard deviation of a standard normal distribution truncated at +-2


class Node(NamedTuple):
    """A map of a cell, and the maps that are fused into it.

    A map is named by its kind and its level, a digit: `i` is an input of the cell, `t` an intermediate map on the way
    down, `o` an output. The output of a level without an `o` is its input.
    """

    name: str
    sources: Tuple[str, ...]


def wiring(*rows: str) -> Tuple[Node, ...]:
    """Nodes in the order of computation, from strings such as "t6: i6 i7" (node: sources)."""
    pairs = (row.split(": ") for row in rows)
    return tuple(Node(name, tuple(sources.split())) for name, sources in pairs)


# Equation 2 of the paper, which gives it for level 5. Sources that do not exist at another level are left out.
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


def conv(in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> nn.Conv2D:
    """Convolution that keeps the map's size, without bias.

    Initial weights have the variance 1 / fan-in, from a normal distribution that is cut at twice its standard
    deviation. They are drawn with a deviation of 1 and scaled, because Paddle 3 cuts at 2, whatever the deviation is.
    """
    std = 1 / math.sqrt(in_channels // groups * kernel_size**2) / TRUNCATED_STD
    attr = ParamAttr(initializer=TruncatedNormal(0.0, 1.0))
    layer = conv2d(in_channels, out_channels, kernel_size, groups=groups, weight_attr=attr)
    layer.weight.set_value(layer.weight * std)
    return layer


def norm(channels: int, norm_type: str) -> nn.BatchNorm2D:
    """Batch norm with the momentum and epsilon of these necks; its weight decay is the optimizer's."""
    return batch_norm(channels, norm_type, None, momentum=MOMENTUM, epsilon=EPSILON)


def halve(x: paddle.Tensor) -> paddle.Tensor:
    """3x3 max pooling with stride 2: [B, C, H, W] -> half of H and W, rounded up. An even side is padded at its end."""
    return F.max_pool2d(x, 3, stride=2, padding="SAME")


def enlarge(x: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    """Resize with nearest neighbors to the height and width of `like`."""
    return nearest(x, *sizes(like)[2:])


class Fusion(nn.Layer):
    """A weighted mean of `inputs` maps, Swish, depthwise separable convolution, batch norm.

    The weights of the mean are learned; negative ones count as 0. Source: the paper, equations 1 and 2.
    """

    def __init__(self, inputs: int, channels: int, norm_type: str):
        super().__init__()
        self.weights = self.create_parameter([inputs], default_initializer=Constant(1.0))
        self.depthwise = conv(channels, channels, 3, groups=channels)
        self.pointwise = conv(channels, channels)
        self.norm = norm(channels, norm_type)

    def forward(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """Maps [B, C, H, W] of the same size -> one such map."""
        return self.convolve(F.weighted_sum(self.shares(), maps))

    def shares(self) -> paddle.Tensor:
        """The factor of each map, [inputs]."""
        weights = F.relu(self.weights)
        return weights / (weights.sum() + WEIGHT_EPSILON)

    def convolve(self, fused: paddle.Tensor) -> paddle.Tensor:
        """The layers after the mean: [B, C, H, W] -> the same shape."""
        return self.norm(self.pointwise(self.depthwise(F.swish(fused))))


class Cell(nn.Layer):
    """One pass over all levels, computed node by node."""

    def __init__(self, nodes: Sequence[Node], channels: int, norm_type: str):
        super().__init__()
        self.nodes = tuple(nodes)
        for node in self.nodes:
            self.add_sublayer(node.name, Fusion(len(node.sources), channels, norm_type))

    def forward(self, levels: Sequence[paddle.Tensor]) -> List[paddle.Tensor]:
        """Levels, finest first -> as many levels of the same sizes."""
        maps = {f"i{level}": x for level, x in zip(LEVELS, levels)}
        for node in self.nodes:
            maps[node.name] = getattr(self, node.name)(self.resized(node, maps))
        return [maps.get(f"o{level}", maps[f"i{level}"]) for level in LEVELS]

    def resized(self, node: Node, maps: Dict[str, paddle.Tensor]) -> List[paddle.Tensor]:
        """The sources of a node, resized to the node's level. They are at most one level apart."""
        level, found = node.name[1], []
        for source in node.sources:
            x = maps[source]
            if source[1] < level:
                x = halve(x)
            elif source[1] > level:
                x = enlarge(x, maps[f"i{level}"])
            found.append(x)
        return found


class FusedPyramid(nn.Layer):
    """Levels P3 to P7 from C3 to C5, then `repeats` cells of `nodes`, each with its own weights.

    P3 to P5 are a 1x1 convolution and batch norm of C3 to C5; P6 is another one of C5, halved; P7 is P6 halved again.
    """

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
        self.laterals = nn.LayerList(
            [ConvNorm(conv(c, channels), norm(channels, norm_type)) for c in (*in_channels, in_channels[-1])]
        )
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
    """Bidirectional feature pyramid.

    Args:
        in_channels, strides: of the backbone's maps C3 to C5
        out_channel: channels of all levels
        repeats: number of cells
        wiring: `paper` is the paper's equation 2, where each node on the way down also reads the input of the next
            coarser level, and each output also the intermediate map of that level; `efficientdet` is without these
    """

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
    """A feature pyramid network made of BiFPN's nodes: information flows from coarse to fine (the paper, figure 2b)."""

    nodes = TOP_DOWN

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        out_channel: int = 256,
        repeats: int = 3,
        norm_type: Shared[str] = "bn",
    ):
        super().__init__(in_channels, strides, out_channel, self.nodes, repeats, norm_type)


@register
class CellPANet(CellFPN):
    """A path aggregation network made of BiFPN's nodes: as `CellFPN`, then back up (the paper, figure 2c)."""

    nodes = DOWN_AND_UP


@register
class NoFusion(FusedPyramid):
    """The levels without fusion (the paper, figure 2a)."""

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        out_channel: int = 256,
        norm_type: Shared[str] = "bn",
    ):
        super().__init__(in_channels, strides, out_channel, (), 0, norm_type)
