"""Detect objects in images or a video with an exported model.

    ppdet-repro infer --model_dir=output_inference/yolof_r50_c5_1x_coco --image_dir=photos

The flags, and the folder that --model_dir names, are PaddleDetection's.
"""

from argparse import Namespace

from ppdet_repro.runtime.options import add_arguments as add_arguments  # the flags of this command
from ppdet_repro.utils.errors import UserError


def run(arguments: Namespace) -> None:
    if arguments.use_gpu:
        raise UserError("--use_gpu is no longer supported; use --device=gpu")
    is_video = arguments.video_file is not None or arguments.camera_id >= 0
    if not (is_video or arguments.image_file or arguments.image_dir):
        raise UserError("give --image_file, --image_dir, --video_file or --camera_id")

    from ppdet_repro.runtime.engines import open_pipeline
    from ppdet_repro.runtime.model_folder import open_model_folder
    from ppdet_repro.runtime.run import AnyPipeline, run_images, run_video
    from ppdet_repro.runtime.slicing import SlicedPipeline, slices_of_flags

    model = open_model_folder(arguments.model_dir, arguments.use_fd_format, arguments.engine)
    whole = open_pipeline(model, arguments)
    pipeline: AnyPipeline = whole
    if slices := slices_of_flags(arguments):
        pipeline = SlicedPipeline(whole, slices, arguments.batch_size)
    (run_video if is_video else run_images)(pipeline, model.labels, arguments)
    print(pipeline.timer.table())
