"""Make COCO JSON files of VOC, WIDER FACE, labelme or Cityscapes annotations.

    python tools/x2coco.py --dataset_type voc --voc_anno_dir Annotations --voc_anno_list ImageSets/Main/train.txt \\
        --voc_label_list label_list.txt --output_dir annotations --voc_out_name train.json
    python tools/x2coco.py --dataset_type labelme --json_input_dir labels --image_input_dir images --output_dir coco \\
        --train_proportion 0.8 --val_proportion 0.2 --test_proportion 0.0

The flags and the files that are written are those of PaddleDetection's tools/x2coco.py. `ppdet-repro data convert`
finds the files of a set by itself, and converts in both directions.
"""

import os
from argparse import ArgumentParser, Namespace
from typing import Dict, Tuple

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.printable import printable

NEEDED: Dict[str, Tuple[str, ...]] = {
    "voc": ("voc_anno_dir", "voc_anno_list", "voc_label_list"),
    "widerface": ("widerface_root_dir",),
    "labelme": ("json_input_dir", "image_input_dir"),
    "cityscape": ("json_input_dir", "image_input_dir"),
}


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset_type", required=True, choices=tuple(NEEDED), help="format of the annotations")
    add("--output_dir", default="./", metavar="DIR", help="folder to write to (default: ./)")
    add("--json_input_dir", metavar="DIR", help="labelme and Cityscapes: folder of the JSON files")
    add("--image_input_dir", metavar="DIR", help="labelme and Cityscapes: folder of the images")
    for split, share in (("train", 1.0), ("val", 0.0), ("test", 0.0)):
        text = f"labelme and Cityscapes: share of the images in {split} (default: {share})"
        add(f"--{split}_proportion", type=float, default=share, metavar="SHARE", help=text)
    add("--voc_anno_dir", metavar="DIR", help="VOC: folder of the XML files")
    add("--voc_anno_list", metavar="FILE", help="VOC: names of XML files, at the end of each line")
    add("--voc_label_list", metavar="FILE", help="VOC: class names, one per line")
    add("--voc_out_name", default="voc.json", metavar="NAME", help="VOC: JSON file to write (default: voc.json)")
    text = "WIDER FACE: folder of wider_face_split, WIDER_train and WIDER_val, to which the files are written"
    add("--widerface_root_dir", metavar="DIR", help=text)


def run(arguments: Namespace) -> None:
    kind = arguments.dataset_type
    missing = [f"--{name}" for name in NEEDED[kind] if getattr(arguments, name) is None]
    if missing:
        raise UserError(f"--dataset_type {kind} needs {' and '.join(missing)}")

    from ppdet_repro.data.source import x2coco

    if kind == "voc":
        target = os.path.join(arguments.output_dir, arguments.voc_out_name)
        lists = arguments.voc_anno_list, arguments.voc_label_list
        text = x2coco.convert_voc(arguments.voc_anno_dir, *lists, target)
    elif kind == "widerface":
        text = x2coco.convert_widerface(arguments.widerface_root_dir)
    else:
        shares = {split: getattr(arguments, f"{split}_proportion") for split in x2coco.SPLITS}
        folders = arguments.json_input_dir, arguments.image_input_dir, arguments.output_dir
        text = x2coco.convert_shapes(kind, *folders, shares)
    print(printable(text))
