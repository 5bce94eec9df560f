"""Draw heat maps of the parts of an image that raise the score of each detected box (Grad-CAM).

ppdet-repro cam -c CONFIG -o weights=PATH --infer_img photo.jpg --cam_out output/cam
ppdet-repro cam -c CONFIG -o weights=PATH --infer_img photo.jpg --target_feature_layer_name model.neck
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add_slim_config(parser)
    add("--infer_img", metavar="FILE", help="an image; takes precedence over --infer_dir")
    add("--infer_dir", metavar="DIR", help="all images of a folder")
    add("--weights", metavar="PATH_OR_URL", help="weights of the model (default: the config's weights)")
    add("--cam_out", metavar="DIR", default="output/cam",
        help="folder for the drawings, one per box (default: output/cam)")  # fmt: skip
    add("--draw_threshold", type=float, default=0.8, help="lowest score of a box that is drawn (default: 0.8)")
    add("--target_feature_layer_name", metavar="LAYER", default="model.backbone",
        help="layer whose output is explained, such as model.neck (default: model.backbone)")  # fmt: skip
    add_offline(parser)


def run(arguments: Namespace) -> None:
    cfg = read_config(arguments, weights=arguments.weights)

    from ppdet_repro.core.config import build
    from ppdet_repro.data.transform.preprocess import Preprocess
    from ppdet_repro.engine.analysis.grad_cam import draw_heat_maps
    from ppdet_repro.engine.distributed import start
    from ppdet_repro.engine.infer import choose_images
    from ppdet_repro.engine.models import load_trained

    files = choose_images(arguments.infer_img, arguments.infer_dir, None)
    preprocess = Preprocess(build(cfg, "TestReader").preprocess)
    start(cfg.run.use_gpu)
    model = load_trained(cfg, arguments.offline)
    layer, threshold = arguments.target_feature_layer_name, arguments.draw_threshold
    draw_heat_maps(model, layer, preprocess, files, threshold, arguments.cam_out)
