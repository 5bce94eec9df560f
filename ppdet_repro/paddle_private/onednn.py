"""Which operators of a program oneDNN computes in which precision.

Programs of Paddle 2 are optimized with lists of operators. The passes for programs of Paddle 3 (PIR) know no lists:
`onednn_placement_pass` gives oneDNN every operator that it has, and then all of them compute in bfloat16.
"""

from __future__ import annotations

from typing import Sequence

from paddle import inference

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


def multiply_outside(config: inference.Config, operators: Sequence[str], pir: bool) -> None:
    """Leave elementwise products to Paddle's own kernel, which is fast where oneDNN 3.0 has only a reference kernel."""
    if not pir:
        config.delete_pass("elementwise_act_onednn_fuse_pass")  # it would insist on oneDNN's products
        config.set_mkldnn_op((set(operators) | FUSED) - {"elementwise_mul"})
