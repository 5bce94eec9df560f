"""Makes the runs of a study: every row with every seed, at the size of the miniature or of the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from filelock import FileLock

from ppdet_repro.core.config import Config, load_config
from ppdet_repro.studies import identity
from ppdet_repro.studies.identity import Identity
from ppdet_repro.studies.study import Row, Study
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output

MINIATURE, PAPER = "miniature", "paper"
TRAINING = "train"  # the name of a run's training; its files are in the folder of that name
RESULT, IDENTITY, QUEUE_LOCK = "result.json", "identity.json", "queue.lock"


class Run(NamedTuple):
    """One training."""

    row: str
    seed: int
    config: str
    overrides: Tuple[str, ...]
    folder: Path
    identity: Identity

    @property
    def name(self) -> str:
        """`ROW-sSEED`."""
        return run_name(self.row, self.seed)

    @property
    def log(self) -> Path:
        """The log.jsonl of its training."""
        return self.folder / TRAINING / "log.jsonl"


class Plan(NamedTuple):
    """All runs of a study."""

    study: Study
    scale: str
    output: Path
    runs: List[Run]


def run_name(row: str, seed: int) -> str:
    """The name of a run, which is also that of its folder."""
    return f"{row}-s{seed}"


def config_of(row: Row, scale: str) -> str:
    """The config of a row. UserError if the paper has none."""
    if scale == MINIATURE:
        return row.config
    if row.paper.config is None:
        raise UserError(f"row {row.name} has no config of the paper's size; the study has it under paper: config:")
    return row.paper.config


def row_overrides(study: Study, row: Row, scale: str, data: Optional[str], extra: Sequence[str]) -> Tuple[str, ...]:
    """The overrides of a row's config; those of the miniature are not for the paper's size."""
    own = (*study.overrides, *row.overrides) if scale == MINIATURE else row.paper.overrides
    folders = [f"{name}.dataset_dir={json.dumps(data)}" for name in identity.DATASETS] if data else []
    return (*own, *folders, *extra)


def data_folder(study: Study, scale: str, output: Path, given: Optional[str]) -> Optional[str]:
    """The folder of the data; None for the one that the configs of the paper's size name."""
    if given is not None or scale == PAPER:
        return given
    return study.folder if study.synthetic is None else str(output / "data")


def make_plan(
    study: Study, scale: str, output: Path, data: Optional[str], seeds: Sequence[int], extra: Sequence[str],
    rows: Sequence[str] = (),
) -> Plan:  # fmt: skip
    """The runs of a study, whose data are made if they are synthetic and missing; of all rows, or of those named.

    Order: all rows with the first seed, then all with the second, so that an unfinished study compares rows.

    UserError if a row is unknown, if a config has a mistake, or if data are missing.
    """
    folder = data_folder(study, scale, output, data)
    if study.synthetic is not None and scale == MINIATURE and data is None:
        make_data(study.synthetic, output)
    common = {"code": identity.code_hash(), "paddle": identity.paddle_version()}
    runs: Dict[str, List[Run]] = {}
    hashes: Dict[str, str] = {}  # of the data, by their configuration
    for row in study.chosen(rows):
        config, overrides = config_of(row, scale), row_overrides(study, row, scale, folder, extra)
        cfg = load_config(config, overrides)
        key = json.dumps([str(file) for name in identity.DATASETS for file in dataset_files(cfg, name)])
        if key not in hashes:
            hashes[key] = identity.data_hash(cfg)
        own = {**common, "data": hashes[key], "config": identity.config_hash(cfg)}
        runs[row.name] = [make_run(row.name, seed, config, overrides, output, own) for seed in seeds]
    return Plan(study, scale, output, [run for group in zip(*runs.values()) for run in group])


def dataset_files(cfg: Config, name: str) -> List[Path]:
    """The annotation files of a config's dataset."""
    return identity.annotation_files(cfg.document.plain().get(name))


def make_run(row: str, seed: int, config: str, overrides: Sequence[str], output: Path, own: Identity) -> Run:
    """A run with the overrides that are its own."""
    folder = output / "runs" / run_name(row, seed)
    mine = (f"seed={seed}", f"save_dir={json.dumps(str(folder))}", f"filename={TRAINING}", "checkpoints_kept=1")
    return Run(row, seed, config, (*overrides, *mine), folder, own)


def make_data(options: Dict[str, Any], output: Path) -> None:
    """Generate the synthetic data of a study, unless they are there. Workers wait for the one that does it."""
    from ppdet_repro.data.source.synthetic import generate

    pairs: Dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    size = pairs.get("size", (256, 256))
    pairs["size"] = (size, size) if isinstance(size, int) else size
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(str(output / "data.lock")):
        generate(output / "data", **pairs)


def check_folder(plan: Plan) -> None:
    """UserError if the folder has runs of other code, data or configs than this plan's."""
    differences: Dict[str, List[str]] = {}
    for run in plan.runs:
        then = read_json(run.folder / IDENTITY)
        for words in identity.changed(run.identity, then) if then else []:
            differences.setdefault(words, []).append(run.name)
    if differences:
        parts = [
            f"{words} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for words, names in differences.items()
        ]
        raise UserError(
            f"{plan.output} has runs that were made with something else than now: {'; '.join(parts)}. Results are not "
            "mixed: give another --output, or delete the folders of these runs"
        )


def read_json(path: Path) -> Dict[str, Any]:
    """The content of a JSON file of a study; {} if there is none. UserError if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it to repeat its run") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a file of a study; delete it to repeat its run")
    return content


def write_json(path: Path, content: Dict[str, Any]) -> None:
    """Write a JSON file completely or not at all."""
    write_output(path, (json.dumps(content, indent=1) + "\n").encode())
