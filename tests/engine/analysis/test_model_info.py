"""The report on a model's size: means over images, and the comparison with the paper's figures."""

from __future__ import annotations

import json

import pytest
from paddle import nn
from paths import CONFIGS

from ppdet_repro import build_model, load_config
from ppdet_repro.cli.info import image_sizes
from ppdet_repro.core.config.run import PaperRow
from ppdet_repro.core.config.yaml_text import parse
from ppdet_repro.data.transform.normalize import Permute
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.engine.analysis.counting import Cost, CountedImage, count_images, count_input, count_parameters
from ppdet_repro.engine.analysis.model_info import NetworkSize, comparison, mean_line, model_info, network_size
from ppdet_repro.modeling.backbones.resnet import DeformConvNorm
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.utils.errors import UserError

YOLOF = "configs/yolof/yolof_r50_c5_1x_coco.yml"
COMPARED = {
    "ppyolo": (
        "ppyolo_r50vd_dcn_1x ppyolov2_r50vd_dcn_365e table1_a table1_b_pan_mish table1_c_640 table1_d_768 "
        "table1_e_iou_aware"
    ),
    "ttfnet": (
        "pafnet_10x table1_b_ags_1x table1_c_ssld_1x table1_d_4x table1_e_cutmix_ema_4x table1_f_dcn_4x table1_g_10x "
        "ttfnet_darknet53_1x"
    ),
    "yolof": (
        "retinanet_plus_r101_1x retinanet_plus_r50_1x retinanet_r101_1x retinanet_r50_1x yolof_r101_c5_1x "
        "yolof_r50_c5_1x yolof_x101_64x4d_c5_1x yolof_x101_64x4d_c5_3x_ms"
    ),
}


def test_table_1_has_the_papers_parameters_and_ratios_of_costs():
    """YOLOF's Table 1: parameters within 2 %, costs in the paper's proportions within 3 % (each scaled by area from
    128 x 128 px, where every level of a pyramid is whole, to the paper's images)."""
    left = []
    for name in ("retinanet_r50", "retinanet_r101", "yolof_r50_c5", "yolof_r101_c5", "yolof_x101_64x4d_c5"):
        path = f"configs/yolof/{name}_1x_coco.yml"
        paper = load_config(path).run.paper
        model = build_model(load_config(path, paper.overrides))
        assert count_parameters(model).total == pytest.approx(paper.parameters * 1e6, rel=0.02), name
        left.append(count_input(model, (128, 128)).total * paper.area / 128**2 / (paper.gflops * 1e9))
    assert max(left) / min(left) < 1.03


def test_these_configs_are_compared_with_a_paper_and_no_others():
    """A config inherits its base's row, but is compared only if the row names it: its network may be another one."""
    expected = {f"{folder}/{name}_coco" for folder, names in COMPARED.items() for name in names.split()}
    expected.add("yolof/yolof_r50_c5_1x_coco_paper")
    files = [path for path in CONFIGS.rglob("*.yml") if path.parent.name not in ("_base_", "datasets")]
    written = {path for path in files if "paper" in parse(path.read_text(encoding="utf-8"), path, []).value}
    assert {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in written} == expected
    assert all(load_config(path).run.paper.config == path.stem for path in written)


def test_the_row_of_a_base_is_not_the_childs(tmp_path):
    child = tmp_path / "child.yml"
    child.write_text(f"_BASE_: {CONFIGS / 'yolof' / 'yolof_r50_c5_1x_coco.yml'}\nResNet: {{variant: c}}\n")
    assert load_config(child).run.paper.parameters == 44
    assert "paper" not in model_info(str(child), size=(64, 64)) and "paper" in model_info(YOLOF, size=(64, 64))


class OneConv(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 1, 1)

    def raw(self, image):
        return self.conv(image)


def test_the_mean_is_over_images_not_over_sizes():
    preprocess = Preprocess([Resize([20, 40], keep_ratio=True), Permute()])
    images = count_images(OneConv(), preprocess, [(10, 20), (10, 20), (10, 10)])
    assert [image.padded for image in images] == [(20, 40), (20, 40), (20, 20)]
    assert [image.cost.total for image in images] == [3 * 800, 3 * 800, 3 * 400]
    assert "the mean over 3 images: mean area 667 px resized" in mean_line(images)  # 2000 / 3


def counted(giga: int, *size: int) -> CountedImage:
    return CountedImage(None, size, size, Cost({"net": giga * 10**9}, []))


def steps(lines: list) -> list:
    """Parameters and GFLOPs of a comparison's table, from the first step to what is left."""
    return [tuple(line.replace(" M ", " ").split()[-2:]) for line in lines[lines.index("") + 3 :]]


def test_the_difference_to_the_paper_is_explained_step_by_step():
    paper = PaperRow(parameters=10, gflops=6, area=500, inputs="half the area", network="another", overrides=["a=b"])
    ours, theirs = NetworkSize(11_000_000, 10 * 10**9), NetworkSize(11_000_000, 11 * 10**9)
    lines = comparison(paper, [counted(10, 20, 50)], ours, theirs)
    # 10 G x 1.1 = 11 G; x 500 / 1000 px = 5.5 G, 8.3 % under 6 G
    giga = ["10.00", "11.00", "5.50", "6", "-8.3%"]
    assert steps(lines) == list(zip(["11.00", "11.00", "11.00", "10", "+10.0%"], giga))
    assert lines[1:3] == ["Its inputs: half the area.", "Its network: another."]


@pytest.mark.parametrize("deformable, parameters", [("none", "8.00"), ("parameters", "12.00")])
def test_deformable_convolutions_and_operations_are_counted_as_the_paper_does(deformable, parameters):
    paper = PaperRow(parameters=8, gflops=16, area=1000, deformable=deformable, operations=2)
    size = NetworkSize(12_000_000, 10 * 10**9, deformable_parameters=4_000_000, deformable_macs=2 * 10**9)
    lines = comparison(paper, [counted(10, 20, 50)], size, size)
    # 10 G - 2 G = 8 G multiply-adds; the area is the paper's; 16 G operations
    assert [giga for _, giga in steps(lines)] == ["10.00", "8.00", "8.00", "16.00", "16", "+0.0%"]
    assert [count for count, _ in steps(lines)][:4] == ["12.00", parameters, parameters, parameters]


def test_units_of_powers_of_two():
    paper = PaperRow(parameters=4, gflops=8, area=1000, binary=True)
    size = NetworkSize(4 * 2**20, 8 * 2**30)
    lines = comparison(paper, [counted(10, 20, 50)], size, size)
    # 4 * 2^20 = 4,194,304; counted() has 10 G
    assert [count for count, _ in steps(lines)] == ["4.19", "4.19", "4.00", "4", "+0.0%"]
    assert [giga for _, giga in steps(lines)][2:] == [f"{10 / 1.073741824:.2f}", "8", "+16.4%"]


def test_the_deformable_part_of_a_network_is_without_the_offsets():
    class Network(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = DeformConvNorm(3, 8, 3, 1, batch_norm, 1.0)

        def raw(self, image):
            return self.conv(image)

    # 8 x 3 x 9 weights at 6 x 6 positions; besides, 27 channels of offsets with biases, and 8 norms
    network = Network()
    found = network_size(network, count_input(network, (6, 6)))
    assert found[2:] == (8 * 3 * 9, 36 * 8 * 3 * 9)
    assert found[:2] == (8 * 27 + 27 * 27 + 27 + 16, 36 * (8 * 27 + 27 * 27))


def test_the_report_states_size_parts_and_the_papers_figures():
    report = model_info(YOLOF, size=(64, 64))
    for words in ("backbone", "44.17 M", "0.42 GFLOPs at 64 x 64", "44 M ", " 86\n"):
        assert words in report
    assert report.splitlines()[-1].split() == ["left", "+0.4%", "+0.2%"]


def test_image_sizes_come_from_a_coco_json_by_image_id(tmp_path):
    images = [{"id": 9, "height": 1, "width": 2}, {"id": 3, "height": 3, "width": 4}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images}))
    assert image_sizes(str(path), None) == [(3, 4), (1, 2)]
    assert image_sizes(str(path), 1) == [(3, 4)]


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"images": []}', '{"images": [{"id": 1}]}'])
def test_a_json_file_that_is_not_in_cocos_format_is_one_clear_error(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"--anno {path}: "):
        image_sizes(str(path), None)
    with pytest.raises(UserError, match="No such file"):
        image_sizes(str(tmp_path / "missing.json"), None)
