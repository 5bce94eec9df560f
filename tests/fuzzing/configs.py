"""Configs, overrides and the infer_cfg.yml of exported models: damaged genuine ones, and random YAML."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Dict, List

import yaml

from ppdet_repro.core.config import load_config, show
from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.suppress import open_suppress
from tests.fuzzing.mutations import damaged
from tests.paths import CONFIGS, FIXTURES

INFER_CFG = "infer_cfg.yml"
NETWORK = ("model.pdmodel", "model.pdiparams")  # files that `open_model_folder` looks for beside it
SCALARS = [
    "1", "-1", "0.5", "1e-4", ".nan", ".inf", "true", "~", "text", "'é'", '"\\0"', '"\\ud800"', "!!int x", '!!int ""',
    "!!bool x", "!!float x", "!!timestamp x", "2001-99-99", "2020-01-01 25:00:00 +99", "!!binary x", "!!set x",
    "!!null x",
    "!!python/name:os.system", "!!python/object/apply:os.system [true]", "9" * 5000, "0x" + "f" * 5000,
    "1:2:3" * 30, "*a",
    "*b", "&a x", "&b [x]", "!YOLOF", "!YOLOF {}", "!YOLOF x", "YOLOF", "Resize", "[]", "{}", "[1, [2, [3]]]",
    "{name: X}",
    "/dev/zero", "/dev/stdin", "~nosuchuser/a", "../a.yml", ".", "a.yml", '"\\e[2J"', "x" * 3000, "'", '"', "%",
    "@", "|",
    ">", "? x", "- x", "<<", "{<<: *a}", "{<<: [*a, *b]}", "%YAML 9", "---", "...",
]  # fmt: skip
KEYS = ["<<", "_BASE_", "name", "type", "²", "0", "-1", "~", "!!int x", "? [a]", "&a k", "*a", '"\\ud800"', "x" * 300]
SUPPRESSION = {"type": "TTFBox", "score_thresh": 0.01}


def generate(rng: random.Random) -> Dict[str, bytes]:
    """The files that `read` reads: a config, and lines of overrides, or the files of an exported model."""
    kind = rng.random()
    if kind < 0.2:
        text = rng.choice(exported())
        return {INFER_CFG: changed(rng, text), **dict.fromkeys(NETWORK, b"x")}
    if kind < 0.35:
        return {"a.yml": rng.choice(packaged()).encode(), "overrides": override(rng).encode("utf-8", "surrogatepass")}
    if kind < 0.8:
        return {"a.yml": changed(rng, rng.choice(packaged()))}
    return {
        "a.yml": "\n".join(random_yaml(rng, 0) for _ in range(rng.choice([1, 5, 30]))).encode("utf-8", "surrogatepass")
    }


def read(folder: Path) -> None:
    if (folder / INFER_CFG).exists():
        model = open_model_folder(folder)
        from_list(model.preprocess)
        if model.post_process is not None:
            open_suppress(model.post_process, INFER_CFG)
        return
    file = folder / "overrides"
    overrides = file.read_bytes().decode("utf-8", "surrogatepass").split("\n") if file.exists() else []
    show(load_config(folder / "a.yml", overrides)).encode("utf-8")


@cache
def packaged() -> List[str]:
    """The texts of packaged configs, with absolute paths of their bases."""
    paths = [*sorted(CONFIGS.glob("*/*.yml")), CONFIGS / "demo/yolof_demo.yml"]
    bases = {str(path.parent): path.parent for path in paths}
    texts = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        document = yaml.load(text, LooseLoader).get("_BASE_", [])
        for name in [document] if isinstance(document, str) else document:
            text = text.replace(name, str((bases[str(path.parent)] / name).resolve()))
        texts.append(text)
    return texts


class LooseLoader(yaml.SafeLoader):
    """Reads the bases of a file that has components with tags in it."""


LooseLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


@cache
def exported() -> List[str]:
    """Texts of infer_cfg.yml, with and without a suppression."""
    text = (FIXTURES / "version_0_1_0/exported/infer_cfg.yml").read_text(encoding="utf-8")
    steps = [{"type": "PadStride", "stride": 32}, {"type": "Pad", "size": [64, 64], "fill_value": [0.0, 0.0, 0.0]}]
    document = yaml.safe_load(text)
    document.update(PostProcess=SUPPRESSION, Preprocess=[*document["Preprocess"], *steps])
    return [text, yaml.safe_dump(document), yaml.safe_dump(document, default_flow_style=True)]


def changed(rng: random.Random, text: str) -> bytes:
    """The text with random bytes changed, or with values or keys of random lines exchanged."""
    if rng.random() < 0.4:
        return damaged(rng, text.encode(), [other.encode() for other in packaged()])
    lines = text.split("\n")
    for _ in range(rng.choice([1, 1, 2, 5])):
        i = rng.randrange(len(lines))
        key, colon, _ = lines[i].partition(":")
        what = rng.randrange(5)
        if what == 0:
            lines[i] = f"{key}{colon or ':'} {random_yaml(rng, 2)}"
        elif what == 1:
            lines[i] = f"{key}{colon} {rng.choice(SCALARS)}"
        elif what == 2:
            lines[i] = lines[i].replace(key.strip() or "x", rng.choice(KEYS), 1)
        elif what == 3:
            lines.insert(i, lines[rng.randrange(len(lines))])
        else:
            lines[i] = " " * rng.randrange(9) + lines[i].strip()
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def override(rng: random.Random) -> str:
    """One to three overrides of keys that configs have."""
    keys = ["epoch", "weights", "TrainReader.sample_transforms.0", "TrainReader.batch_size", "YOLOFHead.num_classes",
            "LearningRate.schedulers.1.steps", "export.nms", "metric", "TrainReader.sample_transforms.²", "a..b", "",
            "TrainReader.sample_transforms." + "9" * 5000, "a" + ".a" * 500, "_BASE_", "paper.area",
            "architecture"]  # fmt: skip
    return "\n".join(
        f"{rng.choice(keys)}{rng.choice(['=', '=', '=', ''])}{rng.choice([rng.choice(SCALARS), random_yaml(rng, 2)])}"
        for _ in range(rng.choice([1, 1, 3]))
    ).replace("\0", "")


def random_yaml(rng: random.Random, depth: int) -> str:
    """A random line: a scalar, or a flow collection of such; at depth 0 a key and such a value; sometimes a bomb."""
    if depth == 0:
        if rng.random() < 0.03:
            return bomb(rng)
        key = rng.choice(
            [rng.choice(KEYS), rng.choice(["epoch", "architecture", "TrainReader", "YOLOF", f"a{rng.random()}"])]
        )
        return f"{key}: {random_yaml(rng, 1)}"
    if depth > 5 or rng.random() < 0.5:
        return rng.choice(SCALARS)
    items = [random_yaml(rng, depth + 1) for _ in range(rng.choice([0, 1, 2, 4]))]
    anchor = rng.choice(["", "", "&a ", "&b ", "!YOLOF "])
    if rng.random() < 0.5:
        return f"{anchor}[{', '.join(items)}]"
    return f"{anchor}{{{', '.join(f'{rng.choice(KEYS)}: {item}' for item in items)}}}"


def bomb(rng: random.Random) -> str:
    """A text that a few bytes make long, deep or many."""
    count = rng.choice([20, 100, 3000])
    aliases = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 3)}]" for i in range(1, count))
    merges = "\n".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 3)}], k{i}: 1}}" for i in range(1, count))
    return rng.choice(
        [
            "a0: &a0 [x]\n" + aliases,
            "m0: &m0 {k: 1}\n" + merges,
            "\n".join(f"key{i}Reader: 1" for i in range(count)),
            "a: " + rng.choice(["[", "{a: ", "- ", "? ", "'", '"', "!!map ", "x "]) * count * 20,
            "a: |\n" + " x\n" * count * 30,
            "TrainReader:\n" + "\n".join(f"  key{i}: 1" for i in range(count)),
            "%TAG !x! " + "x" * count + "\n---\n" + "a: !x!y z\n" * count,
        ]
    )
