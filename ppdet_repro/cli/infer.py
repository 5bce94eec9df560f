"""Detect objects in images with trained weights or an exported model, and draw them.

    ppdet-repro infer -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH --infer_img photo.jpg
    ppdet-repro infer --model_dir output_inference/yolof_r50_c5_1x_coco --image_dir photos

With --model_dir, a folder that `ppdet-repro export` wrote, the flags are those of deploy/python/infer.py: see
`ppdet-repro infer --model_dir DIR --help`.
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import read_config
from ppdet_repro.runtime.options import add_slice_flags
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config, add_switch
from ppdet_repro.utils.files import check_output_dir


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add_slim_config(parser)
    add("--infer_img", metavar="FILE", help="an image; takes precedence over --infer_dir")
    add("--infer_dir", metavar="DIR", help="all images of a folder")
    add("--infer_list", metavar="FILE", help="text file that names images of --infer_dir, one per line")
    add("--output_dir", metavar="DIR", default="output", help="folder for drawn images and results (default: output)")
    add("--draw_threshold", type=float, default=0.5, help="lowest score of a box that is drawn (default: 0.5)")
    add("--save_threshold", type=float, default=0.5, help="lowest score of a box in bbox.json (default: 0.5)")
    add_switch(parser, "--save_results", False, "write bbox.json in COCO's result format (default: False)")
    add_switch(parser, "--visualize", True, "draw the boxes (default: True)")
    text = (
        "detect on all images of TestDataset's annotation file; bbox.json has their ids and all boxes (default: False)"
    )
    add_switch(parser, "--do_eval", False, text)
    add_switch(parser, "--use_vdl", False, "write the images for VisualDL, too (default: False)")
    add("--vdl_log_dir", metavar="DIR", default="vdl_log_dir/image",
        help="folder for VisualDL's files (default: vdl_log_dir/image)")  # fmt: skip
    add_slice_flags(parser)
    add_offline(parser)


def run(arguments: Namespace) -> None:
    cfg = read_config(arguments)

    from ppdet_repro.engine.distributed import start
    from ppdet_repro.engine.infer import annotated_images, choose_images, infer
    from ppdet_repro.engine.models import load_trained
    from ppdet_repro.runtime.slicing import slices_of_flags
    from ppdet_repro.slim.qat import note_simulation

    if arguments.visualize and arguments.infer_dir and not arguments.infer_img:
        check_output_dir(arguments.output_dir, [], [], arguments.infer_dir)
    names = ("output_dir", "draw_threshold", "visualize", "save_results", "save_threshold")
    options = {name: getattr(arguments, name) for name in names}
    if arguments.do_eval:
        images = annotated_images(cfg)
        files, options = images.files, {**options, "ids": images.ids, "save_threshold": 0.0}
    else:
        files = choose_images(arguments.infer_img, arguments.infer_dir, arguments.infer_list)
    start(cfg.run.use_gpu)
    note_simulation(cfg.run.slim)
    vdl_dir = arguments.vdl_log_dir if arguments.use_vdl else None
    model = load_trained(cfg, arguments.offline)
    infer(model, cfg, files, slices=slices_of_flags(arguments), vdl_dir=vdl_dir, **options)
