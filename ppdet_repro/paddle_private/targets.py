"""The targets of an export that the installed Paddle supports."""

from __future__ import annotations

from ppdet_repro.paddle_private.versions import SAVES_PIR
from ppdet_repro.utils.errors import UserError

NOT_FOR_LITE = (
    "Paddle-Lite 2.13 reads programs of Paddle 2 only; export with Paddle 2.6, which reads the same weights: "
    "`make venv PADDLE=2.6`, then `.venv/bin/ppdet-repro export -c CONFIG -o weights=PATH --target lite`"
)


def check_target(target: str, quantized: bool = False) -> None:
    """UserError if the installed Paddle cannot export a float32 model, or a `quantized` one, for the target."""
    if target == "lite" and SAVES_PIR:
        raise UserError(f"--target lite: the installed Paddle writes programs of Paddle 3, but {NOT_FOR_LITE}")
    if target == "onnx" and quantized and SAVES_PIR:
        raise UserError(
            "--target onnx: paddle2onnx for Paddle 3 cannot convert int8; leave --target out for an int8 model for "
            "Paddle Inference, or use Paddle 2.6 for this command: `make venv PADDLE=2.6`"
        )
