"""Flags of PaddleDetection's scripts that are no flags of ours: what the commands do when one is given.

A flag without effect is accepted with a warning that says why. A refused flag ends the command with an error that names
another way, if there is one. Both are hidden from --help. docs/from_paddledetection.md lists them beside the flags that
work as they do there.
"""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from typing import Any, Dict, Optional, Sequence

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

TRACKING = "it is for tracking; this package detects objects in single images"
KEYPOINTS = "it is for keypoints; this package detects boxes"
SNIPER = "it is for SNIPER, training on chips of large pictures; tools/slice_image.py cuts pictures and their boxes"
ACTIONS = "it is for action recognition; this package detects objects in single images"

NO_EFFECT: Dict[str, Dict[str, str]] = {  # command -> flag -> why it has no effect
    "anchors": {
        "--verbose": "the anchors are always printed",
        "-v": "the anchors are always printed",
        "--cache": "reading the boxes takes seconds",
        "--cache_path": "reading the boxes takes seconds",
    },
    "train": {"--fleet": "processes that paddle.distributed.launch or --processes has started always train together"},
    "eval": {"--amp": "evaluation always computes in float32"},
    "infer": {"--rtn_im_file": "results always name their image files"},
    "cam": {
        "--output_dir": "--cam_out names the folder of the drawings",
        "--save_results": "ppdet-repro infer --save_results writes the boxes",
        "--use_gpu": "the config says so, or -o use_gpu=true",
    },
}
REFUSED: Dict[str, Dict[str, str]] = {  # command -> flag -> why it is refused, and what to do
    "train": {
        "--use_wandb": "log.jsonl in the folder of the run has all numbers, an object a line, for wandb.log; --use_vdl "
        "and --logger write curves for VisualDL, TensorBoard and MLflow",
        "--save_prediction_only": "evaluation in training needs scores to find the best weights; afterwards, "
        "ppdet-repro eval --save_prediction_only writes the detections",
        "--save_proposals": SNIPER,
        "--proposals_path": SNIPER,
    },
    "export": {
        "--export_serving_model": "Paddle Serving makes its folders of an export with python -m "
        "paddle_serving_client.convert --dirname DIR --model_filename model.pdmodel --params_filename model.pdiparams"
    },
    "infer_exported": {
        "--save_mot_txts": TRACKING,
        "--save_mot_txt_per_img": TRACKING,
        "--scaled": TRACKING,
        "--tracker_config": TRACKING,
        "--reid_model_dir": TRACKING,
        "--reid_batch_size": TRACKING,
        "--use_dark": KEYPOINTS,
        "--action_file": ACTIONS,
        "--window_size": ACTIONS,
        "--random_pad": ACTIONS,
        "--task_type": "boxes are upright; the one task is Detection",
    },
}
OFF = ("False", "false", "0", "Detection")


class ForeignFlag(Action):
    """Warns that a flag has no effect or, if it is refused, raises UserError. A value in `OFF` asks for nothing."""

    def __init__(self, option_strings: Sequence[str], dest: str, reason: str, refused: bool):
        super().__init__(option_strings, dest, nargs="?", default=SUPPRESS, help=SUPPRESS)
        self.reason, self.refused = reason, refused

    def __call__(self, parser: ArgumentParser, namespace: Namespace, value: Any, option: Optional[str] = None) -> None:
        if value in OFF:
            return
        if self.refused:
            raise UserError(f"{option} is refused: {self.reason}")
        get_logger().warning(f"{option} has no effect: {self.reason}")


def add_foreign(parser: ArgumentParser, command: str) -> None:
    """Add the flags of the tables to the parser of a command."""
    for table, refused in ((NO_EFFECT, False), (REFUSED, True)):
        for flag, reason in table.get(command, {}).items():
            parser.add_argument(flag, action=ForeignFlag, reason=reason, refused=refused)
