"""Every flag of PaddleDetection's scripts works, has no effect, or is refused; docs/from_paddledetection.md says which.

python tests/cli/test_foreign.py      # writes the page's table of flags anew
"""

from __future__ import annotations

import argparse
import re
from typing import Dict, List, Tuple

import pytest
from paths import ROOT

from ppdet_repro.cli.foreign import NO_EFFECT, REFUSED, add_foreign
from ppdet_repro.cli.main import load
from ppdet_repro.utils.errors import UserError

PAGE = ROOT / "docs" / "from_paddledetection.md"
BLOCK = re.compile(r"(?<=<!-- flags -->\n).*(?=<!-- end of flags -->)", re.DOTALL)
CONFIG = "-c --config -o --opt "
SLICES = " --slice_infer --slice_size --overlap_ratio --combine_method --match_threshold --match_metric"
SCRIPTS: Dict[str, Tuple[str, str]] = {  # PaddleDetection's script -> our command, and the flags of commit 666f597f
    "tools/train.py": (
        "train",
        CONFIG + "--eval -r --resume --slim_config --enable_ce --amp --fleet --use_vdl --vdl_log_dir --use_wandb "
        "--save_prediction_only --profiler_options --save_proposals --proposals_path --to_static",
    ),
    "tools/eval.py": (
        "eval",
        CONFIG + "--output_eval --json_eval --slim_config --bias --classwise --save_prediction_only --amp" + SLICES,
    ),
    "tools/infer.py": (
        "infer",
        CONFIG + "--infer_dir --infer_list --infer_img --output_dir --draw_threshold --save_threshold --slim_config "
        "--use_vdl --do_eval --vdl_log_dir --save_results --visualize --rtn_im_file" + SLICES,
    ),
    "tools/export_model.py": ("export", CONFIG + "--output_dir --export_serving_model --slim_config --for_fd"),
    "tools/post_quant.py": ("quantize", CONFIG + "--output_dir --slim_config"),
    "tools/anchor_cluster.py": (
        "anchors",
        CONFIG + "--n -n --iters -i --verbose -v --size -s --method -m --cache_path --cache",
    ),
    "tools/cam_ppdet.py": (
        "cam",
        CONFIG + "--infer_img --weights --cam_out --use_gpu --infer_dir --output_dir --draw_threshold --save_results "
        "--target_feature_layer_name",
    ),
    "tools/x2coco.py": (
        "x2coco",
        "--dataset_type --json_input_dir --image_input_dir --output_dir --train_proportion --val_proportion "
        "--test_proportion --voc_anno_dir --voc_anno_list --voc_label_list --voc_out_name --widerface_root_dir",
    ),
    "tools/slice_image.py": ("slice_image", "--image_dir --json_path --output_dir --slice_size --overlap_ratio"),
    "tools/box_distribution.py": ("box_distribution", "--json_path --eval_size --small_stride --out_img"),
    "deploy/python/infer.py": (
        "infer_exported",
        "--model_dir --image_file --image_dir --batch_size --video_file --camera_id --threshold --output_dir "
        "--run_mode --device --use_gpu --run_benchmark --enable_mkldnn --enable_mkldnn_bfloat16 --cpu_threads "
        "--trt_min_shape --trt_max_shape --trt_opt_shape --trt_calib_mode --save_images --save_mot_txts "
        "--save_mot_txt_per_img --scaled --tracker_config --reid_model_dir --reid_batch_size --use_dark "
        "--action_file --window_size --random_pad --save_results --use_coco_category --collect_trt_shape_info "
        "--tuned_trt_shape_file --use_fd_format --task_type" + SLICES,
    ),
}


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    load(command).add_arguments(parser)
    add_foreign(parser, command)
    return parser


def own_flags(command: str) -> List[str]:
    return [name for action in parser_of(command)._actions for name in action.option_strings]


def quoted(flags: List[str]) -> str:
    return ", ".join(f"`{flag}`" for flag in flags)


def table() -> str:
    """The table of flags in docs/from_paddledetection.md."""
    lines = ["| script | flags that work as there | accepted without effect | refused |", "|---|---|---|---|"]
    reasons: List[str] = []
    for script, (command, flags) in SCRIPTS.items():
        without, refused = NO_EFFECT.get(command, {}), REFUSED.get(command, {})
        works = [flag for flag in flags.split() if flag not in {**without, **refused}]
        lines.append(f"| `{script}` | {quoted(works)} | {quoted(list(without))} | {quoted(list(refused))} |")
        for entries, what in ((without, "no effect"), (refused, "refused")):
            for reason in dict.fromkeys(entries.values()):
                of_reason = [flag for flag in entries if entries[flag] == reason]
                reasons.append(f"| `{script}` | {quoted(of_reason)} | {what}: {reason} |")
    return "\n".join([*lines, "", "| script | flags | |", "|---|---|---|", *reasons, ""])


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_of_paddledetection_is_known(script):
    command, flags = SCRIPTS[script]
    assert [flag for flag in flags.split() if flag not in own_flags(command)] == []


def test_the_page_has_the_table_of_flags():
    """If this fails: python tests/cli/test_foreign.py"""
    (found,) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert found == table()


def test_a_flag_without_effect_is_accepted_with_one_warning(caplog):
    from ppdet_repro.utils.logger import get_logger

    get_logger().addHandler(caplog.handler)
    try:
        values = parser_of("infer").parse_args(["-c", "a.yml", "--rtn_im_file", "True", "--infer_img", "a.jpg"])
    finally:
        get_logger().removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == [
        "--rtn_im_file has no effect: results always name their image files"
    ]
    assert values.infer_img == "a.jpg" and not hasattr(values, "rtn_im_file")


@pytest.mark.parametrize("flag", ["--scaled=True", "--save_mot_txts", "--reid_batch_size=50", "--task_type=Rotate"])
def test_a_refused_flag_is_an_error_of_one_line(flag):
    with pytest.raises(UserError, match=rf"^{flag.split('=')[0]} is refused: [^\n]+$"):
        parser_of("infer_exported").parse_args(["--model_dir", "m", flag])


def test_a_refused_flag_that_is_off_is_accepted():
    arguments = ["--model_dir", "m", "--scaled", "False", "--use_dark=False", "--task_type=Detection"]
    assert parser_of("infer_exported").parse_args(arguments).model_dir == "m"


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
