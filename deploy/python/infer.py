"""Detect objects in pictures or a video with an exported model (see tools/export_model.py).

    python deploy/python/infer.py --model_dir=output_inference/yolof_r50_c5_1x_coco --image_dir=photos

Flags, and the folder that --model_dir names, are PaddleDetection's.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from ppdet_repro.runtime.engines import open_pipeline  # noqa: E402
from ppdet_repro.runtime.model_folder import open_model_folder  # noqa: E402
from ppdet_repro.runtime.options import build_parser  # noqa: E402
from ppdet_repro.runtime.run import AnyPipeline, run_images, run_video  # noqa: E402
from ppdet_repro.runtime.slicing import SlicedPipeline, SliceOptions  # noqa: E402
from ppdet_repro.utils.errors import UserError, run_command  # noqa: E402


def main() -> None:
    flags = build_parser().parse_args()
    if flags.use_gpu:
        raise UserError("--use_gpu is of old; use --device=gpu")
    is_video = flags.video_file is not None or flags.camera_id >= 0
    if not (is_video or flags.image_file or flags.image_dir):
        raise UserError("give --image_file, --image_dir, --video_file or --camera_id")
    model = open_model_folder(flags.model_dir, flags.use_fd_format, flags.engine)
    pipeline: AnyPipeline = open_pipeline(model, flags)
    if flags.slice_infer:
        slices = SliceOptions(**{name: getattr(flags, name) for name in SliceOptions._fields})
        pipeline = SlicedPipeline(pipeline, slices, flags.batch_size)
    if is_video:
        run_video(pipeline, model.labels, flags)
    else:
        run_images(pipeline, model.labels, flags)
    print(pipeline.timer.table())


if __name__ == "__main__":
    run_command(main)
