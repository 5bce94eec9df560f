"""Every block of README.md and docs/*.md is run or loaded as it is printed, except what NOT_RUN lists with a reason.

The blocks of a page run in order in one folder, so a command finds what those before it wrote. Blocks without a
language are commands; `yaml` is loaded, `python` is executed, `text` and `json` show output. Commands are shortened by
what the tables below say and by nothing else. A command with a word that no table knows fails the test: add it.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

import paddle
import pytest
import test_add_a_detector  # noqa: F401  # its PointHead is that of docs/add_a_detector.md
from doc_folder import make_folder
from paths import ROOT
from small_detectors import SIDE, small_inputs, taught_model
from test_docs import expand

from ppdet_repro import build, build_model, load_config
from ppdet_repro.cli import main as cli
from ppdet_repro.core.config import Config
from ppdet_repro.utils.logger import get_logger

get_logger()  # its messages go to pytest, not to the streams that only last for a command

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {  # a pattern of commands, and why they do not run here
    r"make .*": "installs packages; tests/test_setup.py checks the steps",
    r"pip .*": "installs packages",
    r"\.venv/bin/.*": "the environment of a `make venv` or `python -m venv` above it",
    r"python3\.10 -m venv .*": "makes an environment",
    r"eval .*register-python-argcomplete.*": "for a shell: tests/cli/test_commands.py completes a line",
    r"nvidia-smi .*": "needs a GPU",
    r"python -c 'import paddle; paddle\.utils\.run_check\(\)'": "Paddle's own test of a GPU",
    r"(python tools/serve\.py|ppdet-repro serve) .*": "waits for requests: tests/serve",
    r"PYTHONPATH=\. python tests/precision_cells\.py.*": "trains all: tests/engine/export/test_precision_cells.py",
    r"python deploy/benchmark/export_random\.py .*": "exports full-size models: tests/deploy/test_benchmark.py",
    r"python benchmarks/gpu(_build|_prepare)?\.py .*": "full-size models, or a GPU: tests/deploy/test_gpu.py",
    r"ppdet-repro reproduce .*": "trains for hours, or builds all large networks: tests/studies",
    r".*pretrain_weights=https://.*": "downloads weights: tests/utils/test_weights.py",
    r".* --auto_batch": "measures in processes of its own: tests/engine/tuning/test_auto_batch.py",
    r"curl .*": "needs the server: tests/serve",
    r"python tools/mobile\.py( --recipe pafnet)?": "takes 20 minutes, or needs GPUs: tests/cli/test_mobile.py",
    r"deploy/lite/benchmark_arm\.sh .*": "needs a phone: tests/deploy/test_benchmark_arm.py has a replacement",
}

PLACEHOLDERS = {  # in the order in which they are replaced
    "CONFIG": "configs/demo/yolof_demo.yml",
    "FOLDER": "dataset/yolo",
    "slim/quant/NAME": "slim/quant/yolof_demo_qat",
    "slim/distill/NAME": "slim/distill/yolof_demo_distill",
    "slim/prune/NAME": "slim/prune/yolof_demo_prune",
    "configs/yolof/NAME": "configs/demo/yolof_demo",
    "NAME": "yolof_demo",
    "seed N": "seed 1",
    "images DIR": "images photos",
    "320 320": f"{SIDE} {SIDE}",
    "192 256": f"{SIDE} {SIDE}",
    "3,320,320": f"3,{SIDE},{SIDE}",
}


class Shorter(NamedTuple):
    """What is added to a command."""

    opt: str = ""  # for -o; what the page gives to -o counts more
    flags: str = ""


CPU = "use_gpu=false worker_num=0"
COMMANDS = {
    "--help": Shorter(),
    "train": Shorter(
        f"{CPU} epoch=1 snapshot_epoch=1 pretrain_weights=null TrainReader.batch_size=2 EvalReader.batch_size=2",
        "--processes 1",
    ),
    "eval": Shorter(f"{CPU} EvalReader.batch_size=2"),
    "infer": Shorter(CPU),
    "infer_exported": Shorter(flags="--run_benchmark=False"),
    "cam": Shorter(CPU),
    "export": Shorter(CPU),
    "quantize": Shorter(f"{CPU} PTQ.quant_batch_num=1 EvalReader.batch_size=2"),
    "anchors": Shorter(CPU),
    "assignment": Shorter(f"{CPU} pretrain_weights=null"),
    "positives": Shorter(CPU, "--number 2"),
    "init": Shorter(),
    "data check": Shorter(),
    "data show": Shorter(flags="--num 2"),
    "data convert": Shorter(),
    "data synth": Shorter(flags=f"--train 4 --val 2 --size {SIDE}"),
    "config": Shorter(),
    "compare": Shorter(),
    "convert": Shorter(),
    "deploy/lite/convert.py": Shorter(),
    "lr_find": Shorter(f"{CPU} pretrain_weights=null TrainReader.batch_size=2", "--updates 2"),
    "tune": Shorter(f"{CPU} EvalReader.batch_size=2 TrainReader.batch_size=2", "--trials 1"),
    "tools/mobile.py": Shorter(),
    "tar": Shorter(),
    "mv": Shorter(),
}
SMALL_RESNET = "ResNet.depth=18 ResNet.width_mult=0.25"
MORE = {  # more for -o where these words are in a command
    "yolof_r50_c5_1x": SMALL_RESNET,
    "cells.yml": SMALL_RESNET,
    "retinanet_r50": SMALL_RESNET,
    "table6_r101": SMALL_RESNET,
    "slim/quant": "pretrain_weights=PATH",
    "slim/prune": "pretrain_weights=PATH",
    "ppyolo_mbv3_distill_prune": (
        "teacher.pretrain_weights=weights/teacher.pdparams teacher.ResNet.depth=18 teacher.ResNet.width_mult=0.25"
    ),
}

OVER = {  # the config over which a page's YAML block with this first key is loaded, and a component that is then built
    "_BASE_": ("", "TrainDataset"),
    "architecture": ("datasets/synthetic.yml", "RetinaNet"),
    "TrainPhases": ("bifpn/bifpn_r18vd_256_synthetic.yml", "TrainPhases"),
    "schedule_epochs": ("yolof/yolof_r18vd_bccd.yml", "LearningRate"),
    "YOLOFHead": ("yolof/yolof_r18vd_bccd.yml", "YOLOF"),
    "distill_loss": ("slim/distill/yolof_demo_distill.yml", "TrainDataset"),
}
MADE_BEFORE = {  # what a page takes for granted: weights or the exported model of CONFIG
    "deploy_run.md": "output_inference/yolof_demo",
    "python_api.md": "output_inference/yolof_demo",
    "reliability.md": "output/yolof_demo/best_model.pdparams",
    "slim.md": "output/demo/yolof_demo/best_model.pdparams",
    "troubleshooting.md": "output_inference/yolof_demo",
}
OUTPUT = ("text", "json")
TESTED_ELSEWHERE = {("add_a_detector.md", "python"): "tests/test_add_a_detector.py consists of these blocks"}

LITE = find_spec("paddlelite") is not None and paddle.__version__.startswith("2.")
OPTUNA = find_spec("optuna") is not None
NEEDS_LITE = r".*(--target lite|deploy/lite/convert\.py).*"
NEEDS_OPTUNA = r"ppdet-repro tune .*"


class Block(NamedTuple):
    """A block of a page."""

    language: str
    text: str
    before: str  # the page up to the block


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if (page.name, found[1]) not in TESTED_ELSEWHERE and found[1] not in OUTPUT:
            yield Block(found[1], found[2], text[: found.start()])


def commands(text: str) -> List[str]:
    """The commands of a block: long lines joined, comments removed, and loops written out."""
    text = re.sub(r"\s+# .*", "", re.sub(r"\\\n\s*", "", text))
    for loop in re.finditer(r"for (\w+) in (.*); do\n(.*?)\ndone", text, re.DOTALL):
        text = text.replace(loop[0], "\n".join(loop[3].replace(f"${loop[1]}", word) for word in loop[2].split()))
    return [line.strip() for line in text.splitlines() if line.strip()]


def is_run(command: str) -> bool:
    return not any(re.fullmatch(pattern, command) for pattern in NOT_RUN)


def name_of(words: List[str]) -> str:
    """The key in COMMANDS of a command: that of `ppdet-repro`, the one that a script is, the script, or the program."""
    name, rest = words[0], words[1:]
    if name == "python":
        script = re.search(r'run_script\("(\w+)"\)', (ROOT / rest[0]).read_text(encoding="utf-8"))
        name, rest = script[1] if script else rest[0], rest[1:]
    elif name == cli.PROGRAM:
        name, rest = rest[0], rest[1:]
        name = "infer_exported" if name == "infer" and "-c" not in rest else name
    return f"data {rest[0]}" if name == "data" else name


def value_after(words: List[str], flag: str) -> Optional[str]:
    return words[words.index(flag) + 1] if flag in words else None


def shortened(command: str) -> List[str]:
    """The words of a command, with the additions of the tables and with files in place of placeholders."""
    for placeholder, text in PLACEHOLDERS.items():
        command = command.replace(placeholder, text)
    words = [word for quoted in shlex.split(command) for word in expand(quoted)]
    name = name_of(words)
    assert name in COMMANDS, f"{command}: add it to COMMANDS, with what shortens it, or to NOT_RUN"
    opt = COMMANDS[name].opt.split()
    opt += [word for part, more in MORE.items() if part in command and opt for word in more.split()]
    config = value_after(words, "-c")
    if opt and config and name != "positives":
        opt += small_inputs(load_config(config))
    weights = f"weights/{Path(config or '').stem}.pdparams"
    at = words.index("-c") if config else len(words)
    words = [*words[:at], *(["-o", *opt] if opt else []), *words[at:], *COMMANDS[name].flags.split()]
    return [re.sub(r"^((?:pretrain_)?weights=)(PATH|WEIGHTS)$", rf"\g<1>{weights}", word) for word in words]


def make_weights(words: List[str]) -> None:
    """Write the weights that a command reads and that no command before it has written."""
    given = dict(word.split("=", 1) for word in words if re.fullmatch(r"[\w.]+=.*", word))
    given["weights"] = value_after(words, "--weights") or given.get("weights", "null")
    config = value_after(words, "-c") or ""
    for key in ("weights", "pretrain_weights", "teacher.pretrain_weights"):
        path = Path(given.get(key, "null"))
        path = path if path.suffix else path.with_suffix(".pdparams")
        if given.get(key, "null") == "null" or path.exists():
            continue
        opt = [f"{name}={value}" for name, value in given.items() if "." in name and not name.startswith("teacher")]
        if key.startswith("teacher"):
            config = value_after(words, "--slim_config") or ""
            opt = [f"{name[8:]}={value}" for name, value in given.items() if name.startswith("teacher.ResNet.")]
        save(load_config(config, [*CPU.split(), *opt]), path)


def make_logs(words: List[str]) -> None:
    """Write the logs of the runs that are compared, where no command before has trained them."""
    for folder in (Path(word) for word in words if words[1] == "compare" and re.fullmatch(r"output/\w+", word)):
        if not (folder / "log.jsonl").is_file():
            train = {"kind": "train", "epoch": 1, "step": 1, "lr": 0.1, "loss": 2.0, "images_per_second": 1.0}
            found = {"kind": "eval", "epoch": 1, "step": 1, "bbox_mAP": 0.25, "bbox_mAP_50": 0.5}
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "log.jsonl").write_text(f"{json.dumps(train)}\n{json.dumps(found)}\n")


def make_checkpoint(words: List[str]) -> None:
    """Write the checkpoint of PaddleDetection that a command resumes, before its first epoch."""
    path = Path(value_after(words, "-r") or "auto")
    if str(path) == "auto" or path.with_suffix(".pdopt").exists():
        return
    overrides = [word for word in words if re.fullmatch(r"[\w.]+=.*", word)]
    model = build_model(load_config(str(value_after(words, "-c")), overrides))
    optimizer = paddle.optimizer.Momentum(parameters=model.parameters())
    progress = {"last_epoch": 0, "LR_Scheduler": {"last_epoch": 0, "last_lr": 0.1}}
    paddle.save(model.state_dict(), f"{path}.pdparams")
    paddle.save({**optimizer.state_dict(), **progress}, f"{path}.pdopt")


def save(cfg: Config, path: Path) -> None:
    """Write weights of a config: those of the demo are taught for a moment, so that they find boxes."""
    model = taught_model(cfg, 12) if cfg.name == "yolof_demo" else build_model(cfg)
    path.parent.mkdir(parents=True, exist_ok=True)
    paddle.save(model.state_dict(), str(path))


def run(words: List[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command, in this process if it is one of ours. Returns its exit code."""
    if words[0] not in (cli.PROGRAM, "python"):
        done = subprocess.run(["bash", "-c", " ".join(words)], stderr=subprocess.PIPE, text=True)
        sys.stderr.write(done.stderr)
        return done.returncode
    script = words[1] if words[0] == "python" else ""
    monkeypatch.setattr(sys, "argv", words[1:] if script else words)
    try:
        if script:
            monkeypatch.syspath_prepend(str((ROOT / script).parent))
            runpy.run_path(str(ROOT / script), run_name="__main__")
        else:
            cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError(f"{words} does not end like a command")


def make_before(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if made.endswith(".pdparams"):
        config = PLACEHOLDERS["CONFIG"]
        save(load_config(config, [*CPU.split(), *small_inputs(load_config(config))]), Path(made))
    else:
        check_command("ppdet-repro export -c CONFIG -o weights=PATH", monkeypatch)
        assert Path(made).is_dir()


def check_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of a page. Without Paddle-Lite, what needs it ends with one line."""
    words = shortened(command)
    make_weights(words)
    make_checkpoint(words)
    make_logs(words)
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        code = run(words, monkeypatch)
    errors = stream.getvalue()
    if re.fullmatch(NEEDS_LITE, command) and not LITE:
        assert code == 2 and re.search(r"^error: .*Paddle-?Lite.*\n\Z", errors, re.MULTILINE | re.IGNORECASE), errors
    elif re.fullmatch(NEEDS_OPTUNA, command) and not OPTUNA:
        assert code == 2 and re.search(r"^error: tune needs Optuna.*\n\Z", errors, re.MULTILINE), errors
    else:
        assert code == 0, f"{command}\n{shlex.join(words)}\n{errors[-4000:]}"


def alternatives(text: str) -> List[str]:
    """A YAML block, once for each of the lines that have the same key."""
    lines = text.splitlines(keepends=True)
    keys = [(re.match(r" *\w+:", line) or [""])[0] for line in lines]
    chosen = [i for i, key in enumerate(keys) if key and keys.count(key) > 1]
    return ["".join(line for k, line in enumerate(lines) if k == i or k not in chosen) for i in chosen] or [text]


def check_yaml(block: Block) -> None:
    """Load a config of a page, and build the component that it describes."""
    base, component = OVER[block.text.split(":")[0]]
    named = re.search(r"is `(configs/\S+\.yml)`:\n\n\Z", block.before)
    path = Path(named[1] if named else "configs/of_the_page.yml")
    for text in alternatives(block.text):
        path.write_text((f"_BASE_: {base}\n" if base else "") + text)
        slim = "slim/" in base
        cfg = load_config("demo/yolof_demo_narrow.yml", [], path) if slim else load_config(path)
        build(cfg, component)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page(page, tmp_path, monkeypatch):
    found = list(blocks(page))
    monkeypatch.chdir(tmp_path)
    if any(block.language or any(map(is_run, commands(block.text))) for block in found):
        make_folder(tmp_path)
    if page.name in MADE_BEFORE:
        make_before(MADE_BEFORE[page.name], monkeypatch)
    for block in found:
        if block.language == "yaml":
            check_yaml(block)
        elif block.language == "python":
            exec(block.text, {})
        else:
            assert block.language == "", f"{page.name}: write text for output, or nothing for commands"
            for command in filter(is_run, commands(block.text)):
                check_command(command, monkeypatch)


def test_the_tables_are_about_commands_of_the_pages():
    """What no page has any more is removed from the tables, too."""
    printed = [line for page in PAGES for block in blocks(page) if not block.language for line in commands(block.text)]
    run_here = [line for line in printed if is_run(line)]
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, line) for line in printed)] == []
    assert [text for text in (*PLACEHOLDERS, *MORE) if not any(text in line for line in run_here)] == []
    names = {name_of([word for quoted in shlex.split(line) for word in expand(quoted)]) for line in run_here}
    assert names == set(COMMANDS)


def test_a_command_that_no_table_knows_fails():
    for command in ("ppdet-repro verify -c CONFIG", "python tools/soak.py", "rm -r output"):
        with pytest.raises(AssertionError, match="add it to COMMANDS"):
            shortened(command)
    assert commands("a b \\\n  c  # d\nfor x in 1 2; do\n  e $x\ndone\n") == ["a b c", "e 1", "e 2"]
    assert alternatives("a: {b: 1}\nc:\n  d: 1\n  d: 2\n") == ["a: {b: 1}\nc:\n  d: 1\n", "a: {b: 1}\nc:\n  d: 2\n"]
