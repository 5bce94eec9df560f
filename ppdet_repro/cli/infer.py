"""Detect objects in images with trained weights or an exported model, and draw them.

    ppdet-repro infer -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH --infer_img photo.jpg
    ppdet-repro infer --model_dir output_inference/yolof_r50_c5_1x_coco --image_dir photos

With --model_dir, a folder that `ppdet-repro export` wrote, the flags are those of deploy/python/infer.py: see
`ppdet-repro infer --model_dir DIR --help`.
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import read_config
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
    add_offline(parser)


def run(arguments: Namespace) -> None:
    cfg = read_config(arguments)

    from ppdet_repro.engine.distributed import start
    from ppdet_repro.engine.infer import choose_images, infer
    from ppdet_repro.engine.models import load_trained
    from ppdet_repro.slim.qat import note_simulation

    if arguments.visualize and arguments.infer_dir and not arguments.infer_img:
        check_output_dir(arguments.output_dir, [], [], arguments.infer_dir)
    files = choose_images(arguments.infer_img, arguments.infer_dir, arguments.infer_list)
    start(cfg.run.use_gpu)
    note_simulation(cfg.run.slim)
    names = ("output_dir", "draw_threshold", "visualize", "save_results", "save_threshold")
    infer(load_trained(cfg, arguments.offline), cfg, files, **{name: getattr(arguments, name) for name in names})
