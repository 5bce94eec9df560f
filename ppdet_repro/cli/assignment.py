"""Draw the training targets of images: positive locations, ignored boxes, loss weights.

ppdet-repro assignment -c configs/ttfnet/pafnet_r18vd_224_synthetic.yml --number 4
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, add_offline, at_least_one
from ppdet_repro.utils.printable import printable


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add("--image", nargs="+", default=[], help="file names or image ids of TrainDataset (default: its first images)")
    add("-n", "--number", type=at_least_one, default=4, help="number of images if --image is not given (default: 4)")
    add("--weights", metavar="PATH_OR_URL", help="weights of the model (default: random initial weights)")
    add("--seed", type=int, default=0, help="random seed of the training transforms (default: 0)")
    text = "training progress to assume, from 0 (start) to 1 (end), where targets depend on it (default: 1)"
    add("--progress", type=float, default=1.0, help=text)
    add("--output_dir", metavar="DIR", default="output/assignment",
        help="folder for the drawings (default: output/assignment)")  # fmt: skip
    add_offline(parser)


def run(arguments: Namespace) -> None:
    cfg = read_config(arguments)

    from ppdet_repro.engine.analysis.show_assignment import show_assignment

    names = ("number", "weights", "seed", "offline", "progress")
    options = {name: getattr(arguments, name) for name in names}
    print(printable("\n".join(show_assignment(cfg, arguments.output_dir, arguments.image, **options))))
