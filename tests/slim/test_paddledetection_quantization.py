"""What PaddleDetection's files in configs/slim/quant and configs/slim/post_quant say, for the detectors that it is for:
they load, and a small form of the detector is quantized and makes an update."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import yaml
from small_detectors import small_config
from tiny_yolof import write_images

from ppdet_repro.core.config import build
from ppdet_repro.engine.models import build_untrained

PUBLISHED = "https://paddledet.bj.bcebos.com/models"


def qat_file(weights, pact=True, moving_rate=0.9, **sections):
    """A file for quantization-aware training."""
    settings = {
        "weight_quantize_type": "channel_wise_abs_max", "activation_quantize_type": "moving_average_abs_max",
        "weight_bits": 8, "activation_bits": 8, "dtype": "int8", "window_size": 10000, "moving_rate": moving_rate,
        "quantizable_layer_type": ["Conv2D", "Linear"], **({"activation_preprocess_type": "PACT"} if pact else {}),
    }  # fmt: skip
    return {
        "pretrain_weights": f"{PUBLISHED}/{weights}.pdparams",
        "slim": "QAT",
        "QAT": {"quant_config": settings, "print_model": True},
        **sections,
    }


def ptq_file(weights):
    """A file for post-training quantization."""
    settings = {"activation_quantizer": "HistQuantizer", "upsample_bins": 127, "hist_percent": 0.999}
    return {
        "weights": f"{PUBLISHED}/{weights}.pdparams",
        "slim": "PTQ",
        "PTQ": {"ptq_config": settings, "quant_batch_num": 10, "fuse": True},
    }


def rates(base_lr, milestones, steps):
    """LearningRate with a warm-up; the tags of its schedules are written by `write`."""
    return {"base_lr": base_lr, "schedulers": [
        {"name": "PiecewiseDecay", "gamma": 0.1, "milestones": milestones},
        {"name": "LinearWarmup", "start_factor": 0.0, "steps": steps},
    ]}  # fmt: skip


MOMENTUM = {"optimizer": {"momentum": 0.9, "type": "Momentum"}, "regularizer": {"factor": 0.0005, "type": "L2"}}
NECK = {"block_size": 3, "keep_prob": 0.9, "spp": True, "drop_block": False}
READER = {"batch_size": 8}
QAT_FILES = {  # name -> the small detector, and the file
    "ppyolo_r50vd_qat_pact": ("ppyolo", qat_file(
        "ppyolo_r50vd_dcn_1x_coco", epoch=50, LearningRate=rates(0.0005, [30, 45], 1000), OptimizerBuilder=MOMENTUM,
        PPYOLOFPN={"coord_conv": True, **NECK},
    )),
    "ppyolov2_r50vd_dcn_qat": ("ppyolov2", qat_file(
        "ppyolov2_r50vd_dcn_365e_coco", epoch=50, snapshot_epoch=8, LearningRate=rates(0.0005, [30, 45], 2000),
        TrainReader=READER, PPYOLOPAN=NECK,
    )),
    "yolov3_darknet_qat": ("ppyolo", qat_file(
        "yolov3_darknet53_270e_coco", pact=False, epoch=50, TrainReader=READER,
        LearningRate=rates(0.0001, [30, 45], 1000), OptimizerBuilder=MOMENTUM,
    )),
    "yolov3_mobilenet_v1_qat": ("ppyolo", qat_file("yolov3_mobilenet_v1_270e_coco", pact=False)),
    "yolov3_mobilenet_v3_qat": ("ppyolo", qat_file(
        "yolov3_mobilenet_v3_large_270e_coco", epoch=50, LearningRate=rates(0.0001, [35, 45], 1000),
    )),
}  # fmt: skip
PTQ_FILES = ["ppyolo_mbv3_large_coco", "ppyolo_r50vd_dcn_1x_coco", "yolov3_darknet53_270e_coco"]


def write(content, path):
    """Write a file as PaddleDetection does, with schedules as YAML tags."""
    text = yaml.safe_dump(content, sort_keys=False)
    for name in ("PiecewiseDecay", "LinearWarmup"):
        text = text.replace(f"- name: {name}\n", f"- !{name}\n")
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"))


def first_loss(cfg):
    """The loss of a new model for the first batch, and the model."""
    model = build_untrained(cfg)
    model.train()
    dataset = build(cfg, "TrainDataset")
    dataset.load()
    batches = build(cfg, "TrainReader").batches(dataset, epoch=0, epochs_total=1, seed=0, workers=0)
    return model(next(iter(batches)))["loss"], model


@pytest.mark.parametrize("name", QAT_FILES)
def test_a_file_for_training(name, data, tmp_path):
    detector, content = QAT_FILES[name]
    cfg = small_config(detector, data, slim=write(content, tmp_path / f"{name}.yml"))
    assert cfg.name == name and cfg.run.slim == "QAT"
    settings = build(cfg, "QAT").settings
    assert settings["moving_rate"] == content["QAT"]["quant_config"]["moving_rate"]
    loss, model = first_loss(cfg)
    weights = next(parameter for key, parameter in model.named_parameters() if key.endswith("._layer.weight"))
    before = weights.numpy().copy()
    loss.backward()
    paddle.optimizer.Momentum(1e-2, parameters=[weights]).step()
    assert paddle.isfinite(loss).item() and not np.array_equal(weights.numpy(), before)
    clipped = "activation_preprocess_type" in content["QAT"]["quant_config"]
    assert any("_act_preprocess.alpha" in key for key in model.state_dict()) == clipped
    # PaddleDetection's head sets skip_quant for its last layers, so their weights keep their names
    last = sorted(key for key in model.state_dict() if "yolo_output" in key and "weight" in key)
    assert last == [f"yolo_head.yolo_output.{i}.weight" for i in range(len(last))] and last


@pytest.mark.parametrize("weights", PTQ_FILES)
def test_a_file_for_calibration(weights, data, tmp_path):
    cfg = small_config("ppyolo", data, slim=write(ptq_file(weights), tmp_path / "ptq.yml"))
    assert cfg.run.weights == f"{PUBLISHED}/{weights}.pdparams"
    ptq = build(cfg, "PTQ")
    assert (ptq.algorithm, ptq.hist_percent, ptq.quant_batch_num) == ("hist", 0.999, 10)


@pytest.mark.parametrize("name", ["pafnet", "pafnet_lite", "ttfnet", "sapd", "bifpn", "retinanet"])
def test_every_other_detector_is_quantized_too(name, data, tmp_path):
    content = {"slim": "QAT", "QAT": {"quant_config": {"activation_preprocess_type": "PACT"}}}
    cfg = small_config(name, data, slim=write(content, tmp_path / "quant.yml"))
    loss, _ = first_loss(cfg)
    assert paddle.isfinite(loss).item()
