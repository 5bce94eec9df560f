"""Make a config for the labelled pictures in a folder.

    ppdet-repro init photos
    ppdet-repro init photos --base ppyolov2 --output configs/photos

Finds labels in the formats of COCO, VOC, YOLO or labelme, also in the layouts of Ultralytics, Roboflow, CVAT and
label-studio. Decodes every picture, divides them into train and val if they are not divided, and writes the labels as
COCO files and a config. The pictures and labels are not changed.
"""

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", help="folder that contains the pictures and the labels")
    add("--output", metavar="DIR", help="folder to write to (default: ppdet_repro in the folder)")
    text = "detector (default: pafnet on a CPU, ppyolov2 on a GPU)"
    add("--base", choices=("pafnet", "ppyolov2", "yolof"), help=text)
    add("--device", choices=("cpu", "gpu"), help="what to train on (default: a GPU if Paddle finds one)")
    text = "format of the labels, for a folder with labels in several formats"
    add("--format", choices=("coco", "voc", "yolo", "labelme"), help=text)
    text = "class names, one per line (default: label_list.txt, data.yaml or classes.txt in the folder)"
    add("--label_list", metavar="FILE", help=text)
    add("--force", action="store_true", help="overwrite a config and labels that have changed")


def run(arguments: Namespace) -> None:
    from ppdet_repro.engine.starting.init import init
    from ppdet_repro.utils.printable import printable

    a = arguments
    started = init(a.folder, a.output, a.base, a.device, a.format, a.label_list, a.force)
    print(printable("\n".join(started.lines)))
