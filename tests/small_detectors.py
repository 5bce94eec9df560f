"""The detectors in their smallest forms, over the pictures of tiny_yolof, taught for a few seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional
from unittest import mock

import paddle

from ppdet_repro.core.config import Config, build, build_model, load_config
from ppdet_repro.modeling.necks.ppyolo_fpn import YOLOv3FPN

CONFIGS = Path(__file__).parents[1] / "configs"
SIDE = 64


class Small(NamedTuple):
    """A published config, what makes it small, and how many updates it needs until its boxes tell one from another."""

    config: str
    overrides: List[str]
    steps: int = 12


SMALL: Dict[str, Small] = {
    "yolof": Small("yolof/yolof_r18vd_bccd.yml", []),
    "ppyolov2": Small("ppyolo/ppyolov2_r18vd_256_synthetic.yml", ["PPYOLOPAN.width=64", "ResNet.dcn_v2_stages=[3]"]),
    "pafnet": Small("ttfnet/pafnet_r18vd_224_synthetic.yml", []),
    # after 12 updates its heat map is level, and rounding decides what is a peak
    "pafnet_lite": Small("ttfnet/pafnet_lite_mobilenet_v3_20x_coco.yml", ["pretrain_weights=null"], steps=25),
    "sapd": Small("sapd/sapd_r18vd_256_synthetic.yml", []),  # FSAF and it differ in their losses alone
    "bifpn": Small("bifpn/bifpn_b0_128_synthetic.yml", []),
    "retinanet": Small(
        "retinanet/retinanet_r50_fpn_1x_coco.yml",
        [
            "pretrain_weights=null",
            "ResNet.depth=18",
            "ResNet.width_mult=0.5",
            "FPN.out_channel=32",
            *(f"RetinaHead.conv_feat.{name}" for name in ("feat_in=32", "feat_out=32", "num_convs=1")),
        ],
    ),
    "ppyolo": Small(
        "ppyolo/ppyolo_r50vd_dcn_1x_coco.yml",
        ["pretrain_weights=null", "norm_type=bn", "ResNet.depth=18", "ResNet.width_mult=0.5", "PPYOLOFPN.width=64"],
    ),
    # after fewer updates its outputs are large, and so are their rounding errors
    "yolov3": Small(
        "yolov3/yolov3_mobilenet_v1_roadsign.yml",
        ["pretrain_weights=null", "norm_type=bn", "MobileNet.scale=0.25"],
        steps=60,
    ),
    "ttfnet": Small(
        "ttfnet/pafnet_r18vd_224_synthetic.yml",
        ["TTFFPN.planes=[64,32,16]", "TTFFPN.dcn_neck=true", "TTFHead.ags=null"],
    ),
}
SQUARE = f"[{SIDE},{SIDE}]"
SIZES = {
    "Resize": f"target_size={SQUARE}",
    "RandomResize": f"target_size=[{SQUARE}]",
    "BatchRandomResize": f"target_size=[{SIDE}]",
    "Mosaic": f"target_size={SQUARE}",
    "Pad": f"size={SQUARE}",
    "CopyPaste": f"target_size={SIDE}",
}


def small_inputs(cfg: Config) -> List[str]:
    """The overrides with which a config's readers make images of `SIDE` x `SIDE` pixels."""
    settings, changes = cfg.tree(), []
    for reader in ("TrainReader", "EvalReader", "TestReader"):
        values = settings[reader].value.settings
        for group in ("sample_transforms", "batch_transforms"):
            for i, item in enumerate(values[group].value or []):
                transform = item.value.component.name
                if transform in SIZES:
                    changes.append(f"{reader}.{group}.{i}.{transform}.{SIZES[transform]}")
                if transform == "RandomResize" and item.value.settings["random_range"].value:  # between two sizes
                    changes[-1] = f"{reader}.{group}.{i}.{transform}.target_size=[{SQUARE},{SQUARE}]"
        if "image_shape" in (values["inputs_def"].value or {}):
            changes.append(f"{reader}.inputs_def.image_shape=[3,{SIDE},{SIDE}]")
    return changes


def small_config(name: str, data: Path, *overrides: str, slim: Optional[Path] = None) -> Config:
    """The config of a small detector on the set that `write_images` left in `data`; `slim` is its --slim_config."""
    small = SMALL[name]
    path = CONFIGS / small.config
    changes = ["use_gpu=false", "worker_num=0", "num_classes=2", *small.overrides, *small_inputs(load_config(path))]
    for section in ("TrainDataset", "EvalDataset"):
        changes += [f"{section}.name=COCODataSet", f"{section}.dataset_dir={data}", f"{section}.image_dir=images"]
        changes += [f"{section}.anno_path=truth.json", f"{section}.data_fields=[image,gt_bbox,gt_class,is_crowd]"]
    changes += ["TrainReader.batch_size=4", f"TestReader.inputs_def.image_shape=[3,{SIDE},{SIDE}]"]
    changes += ["TestDataset.name=ImageFolder", f"TestDataset.anno_path={data}/truth.json", *overrides]
    return load_config(path, changes, slim)


def small_model(cfg: Config) -> paddle.nn.Layer:
    """The config's model. YOLOv3's neck is narrow, for which there is no key."""
    with mock.patch.object(YOLOv3FPN, "coarsest_width", staticmethod(lambda levels: 64)):
        return build_model(cfg)


def taught_model(cfg: Config, steps: int, normalize: bool = False) -> paddle.nn.Layer:
    """The config's model in eval mode; its neck and head have seen one batch `steps` times, so it finds boxes of all
    scores. With `normalize`, the batch norms of its backbone have the statistics of the batch."""
    paddle.seed(0)
    model = small_model(cfg)
    dataset = build(cfg, "TrainDataset")
    dataset.load()
    reader = build(cfg, "TrainReader")
    batch = next(iter(reader.batches(dataset, epoch=0, epochs_total=1, seed=0, workers=0)))
    model.eval()
    with paddle.no_grad():
        if normalize:
            model.backbone.train()
            for _ in range(40):  # 0.9 ** 40 of the initial statistics remains
                model.backbone(batch["image"])
            model.backbone.eval()
        features = model.backbone(batch["image"])
    optimizer = paddle.optimizer.Adam(2e-3, parameters=[*model.neck.parameters(), *model.head.parameters()])
    for part in (model.neck, model.head):
        part.train()
    for _ in range(steps):
        model.losses(model.head(model.neck(features)), batch)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    return model
