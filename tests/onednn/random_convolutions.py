"""Compare random convolutions on feature maps with Paddle's in float64: values and all gradients, several times each.

    PYTHONPATH=. python tests/onednn/random_convolutions.py --seed 1 --count 2000

oneDNN's scratch memory ends here at a page that cannot be touched: where it writes beyond, the process ends, and the
convolution that was printed last is the one. Results that depend on what was in the memory before differ at times.
"""

from __future__ import annotations

import argparse
import ctypes
import random
from ctypes import byref, c_int, c_long, c_size_t, c_void_p
from typing import Dict

import numpy as np
import paddle
from paddle import nn

import ppdet_repro  # noqa: F401
from ppdet_repro.onednn import convolution, library
from ppdet_repro.onednn.layers import take_feature_maps, take_tensors
from ppdet_repro.onednn.primitives import Primitive
from ppdet_repro.onednn.tape import enter

PAGE = 4096
READ_WRITE, NOTHING, PRIVATE_ANONYMOUS = 3, 0, 0x22  # of mmap and mprotect on Linux
USER_SCRATCHPAD, QUERY_SCRATCHPAD, SCRATCHPAD = 1, 136, 80  # of oneDNN's API
CHANNELS = 1, 2, 3, 4, 8, 12, 15, 16, 17, 24, 32, 40, 64, 72, 96
SIDES = 1, 2, 3, 4, 6, 8, 12, 20, 24
TOLERANCE = 1e-4  # of the largest value
REPEATS = 4


def protected(size: int) -> int:
    """The address of `size` bytes (up to 63 more) before a page that cannot be touched. They are never freed."""
    system = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = c_void_p
    system.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
    system.mprotect.argtypes = [c_void_p, c_size_t, c_int]
    whole = -(-size // PAGE) * PAGE
    start = system.mmap(None, whole + PAGE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0)
    if start in (None, c_void_p(-1).value) or system.mprotect(start + whole, PAGE, NOTHING):
        raise OSError(ctypes.get_errno(), "no memory for a scratchpad")
    return start + (whole - size) // 64 * 64


class Guarded(Primitive):
    """A primitive whose scratch memory is protected."""

    def __init__(self, name, description, arguments):
        layout = description.layout(QUERY_SCRATCHPAD)
        size = library.size_of(layout) if layout.value else 0
        self.scratch = [protected(size)] if size else []
        super().__init__(name, description, [*arguments, *[(SCRATCHPAD, layout)] * len(self.scratch)])

    def __call__(self, *addresses):
        super().__call__(*addresses, *self.scratch)


def protect() -> None:
    """Let the primitives of convolutions have protected scratch memory from now on."""
    attributes, lib = c_void_p(), library.call_library()
    library.check(lib.dnnl_primitive_attr_create(byref(attributes)), "an attribute")
    library.check(lib.dnnl_primitive_attr_set_scratchpad_mode(attributes, USER_SCRATCHPAD), "an attribute")
    convolution.Convolution.attributes = attributes
    convolution.Primitive = Guarded


def random_layer(rng: random.Random) -> nn.Layer:
    """A convolution, one in six of them transposed, one in four depthwise."""
    inputs, outputs = rng.choice(CHANNELS), rng.choice(CHANNELS)
    groups = inputs if rng.random() < 0.25 else 1
    outputs, bias = (inputs if groups > 1 else outputs), rng.choice([None, False])
    if rng.random() < 1 / 6:
        kernel = rng.choice([2, 3, 4])
        padding = rng.choice([0, 1]) if kernel > 2 else 0
        return nn.Conv2DTranspose(inputs, outputs, kernel, 2, padding, groups=groups, bias_attr=bias)
    kernel, stride = rng.choice([1, 1, 3, 3, 5]), rng.choice([1, 1, 2])
    dilation = rng.choice([1, 1, 1, 2, 4]) if kernel == 3 else 1
    padding = rng.choice([dilation * (kernel - 1) // 2] * 2 + [0])
    return nn.Conv2D(inputs, outputs, kernel, stride, padding, dilation, groups, bias_attr=bias)


def computed(layer: nn.Layer, image: np.ndarray, as_map: bool) -> Dict[str, np.ndarray]:
    """The values for an image [N, C, H, W], and the gradients of a weighted sum of them."""
    tensor = paddle.to_tensor(image, stop_gradient=False)
    values = layer(enter(tensor, layer.parameters(), library.F32) if as_map else tensor)
    values = values.tensor() if as_map else values
    weights = np.random.RandomState(3).standard_normal(values.shape).astype(image.dtype)
    (values * paddle.to_tensor(weights)).sum().backward()
    found = {"values": values.numpy(), "image": tensor.grad.numpy()}
    found.update({name: p.grad.numpy() for name, p in layer.named_parameters()})
    layer.clear_gradients()
    return found


def check(number: int, seed: int) -> None:
    """Compare convolution number `number`. ValueError: something is not Paddle's."""
    rng = random.Random(f"{seed} {number}")
    paddle.seed(number)
    layer = random_layer(rng)
    reach = layer._dilation[0] * (layer.weight.shape[2] - 1) + 1  # so many pixels are under a filter
    sides = [side for side in SIDES if side >= reach] if isinstance(layer, nn.Conv2D) else SIDES
    shape = [rng.choice([1, 2, 3, 4]), layer._in_channels, rng.choice(sides), rng.choice(sides)]
    print(number, type(layer).__name__, layer.extra_repr(), shape, flush=True)
    image = np.random.RandomState(number).standard_normal(shape).astype(np.float32)
    layer.to(dtype="float64")
    expected = computed(layer, image.astype(np.float64), as_map=False)
    layer.to(dtype="float32")
    take_feature_maps(layer)
    for _ in range(REPEATS):
        for name, found in computed(layer, image, as_map=True).items():
            distance = np.abs(found - expected[name]).max()
            if not distance <= TOLERANCE * max(1.0, np.abs(expected[name]).max()):
                raise ValueError(f"{name} differs by {distance:.2g}; the largest is {np.abs(expected[name]).max():.2g}")
    take_tensors(layer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000, help="number of convolutions (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (default: 0)")
    options = parser.parse_args()
    paddle.set_device("cpu")
    protect()
    for number in range(options.first, options.first + options.count):
        check(number, options.seed)


if __name__ == "__main__":
    main()
