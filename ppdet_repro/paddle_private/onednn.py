"""Which operators of a program oneDNN computes in which precision.

Programs of Paddle 2 are optimized with lists of operators. The passes for programs of Paddle 3 (PIR) know no lists:
`onednn_placement_pass` gives oneDNN every operator that it has, and then all of them compute in bfloat16.
"""

from __future__ import annotations

from typing import Sequence

from paddle import inference

from ppdet_repro.paddle_private.versions import SAVES_PIR
from ppdet_repro.utils.errors import UserError

# The operators that compute in int8 in a quantized model; `fused_conv2d` is what oneDNN makes of a convolution. Without
# this list, oneDNN also rounds poolings, reshapes and transposes with known ranges, and so the decoded boxes.
INT8_OPERATORS = {"conv2d", "depthwise_conv2d", "fused_conv2d"}
CONVOLUTIONS = {"conv2d", "depthwise_conv2d", "conv2d_transpose", "depthwise_conv2d_transpose", "deformable_conv"}
FUSED = {"fused_conv2d", "fused_matmul", "fused_transpose", "fc"}  # operators that Paddle makes by fusing others


def convolve_in_bfloat16(config: inference.Config, pir: bool) -> None:
    """Compute convolutions, and what is fused with them, in bfloat16. Boxes that are computed in it are off by pixels.

    In a PIR program these are the convolutions that an earlier pass has fused with their biases.
    """
    config.enable_mkldnn_bfloat16()
    if pir:
        config.delete_pass("onednn_placement_pass")
    else:
        config.set_bfloat16_op(CONVOLUTIONS | FUSED)


def convolve_in_int8(config: inference.Config, pir: bool) -> None:
    """Compute the convolutions of a quantized program in int8. UserError for a PIR program, or if Paddle was built
    without oneDNN: Paddle has no int8 then, and would run it several times slower than in float32."""
    if pir:
        raise UserError(
            "Paddle computes in int8 only what is quantized in a .pdmodel file, not in a .json file; write one with "
            "ppdet-repro quantize, or simulate int8 slowly with --enable_mkldnn_int8=False"
        )
    if not config.mkldnn_enabled():
        raise UserError(
            "the installed Paddle has no oneDNN, which computes int8 on the CPU; install another, or simulate int8 "
            "slowly with --enable_mkldnn_int8=False"
        )
    config.enable_mkldnn_int8(INT8_OPERATORS)


def keep_axes_of_sums(config: inference.Config, operators: Sequence[str], pir: bool, simulated: bool = False) -> None:
    """Do not fuse sums with the activation behind them where Paddle 3 would forget the axis of the sum: in programs of
    Paddle 2 with biases that are added along axis 1 and are not fused with their convolution. These are the biases of
    deformable convolutions and, where int8 is simulated, of all."""
    if SAVES_PIR and not pir and (simulated or any(name.startswith("deformable_conv") for name in operators)):
        config.delete_pass("elementwise_act_onednn_fuse_pass")


def multiply_outside(config: inference.Config, operators: Sequence[str], pir: bool) -> None:
    """Leave elementwise products to Paddle's own kernel, which is fast where oneDNN 3.0 has only a reference kernel."""
    if not pir:
        config.delete_pass("elementwise_act_onednn_fuse_pass")  # it would insist on oneDNN's products
        config.set_mkldnn_op((set(operators) | FUSED) - {"elementwise_mul"})
