"""Compares the sizes of all rows of the papers' tables, parameters and GFLOPs, with the papers' figures."""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional

from ppdet_repro.core.config import Config, build, build_model, load_config
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine.analysis.counting import TYPICAL_SIZES, count_images, count_input
from ppdet_repro.engine.analysis.model_info import network_size, steps_to_paper
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.packaged import packaged_configs
from ppdet_repro.utils.table import text_table

LIMIT = 0.01  # larger differences are explained below the table
HEADER = [
    "config", "the paper's row", "parameters (M)", "paper", "difference", "GFLOPs", "as the paper counts", "paper",
    "difference",
]  # fmt: skip


class Size(NamedTuple):
    """The size of a row."""

    config: Config
    parameters: float  # millions, of the config's network
    gflops: float  # 1e9 multiply-adds for the typical image
    their_parameters: float  # millions, of what the paper counts
    their_gflops: float  # for the paper's network, inputs and way of counting
    steps: List[str]  # what leads from our counts to theirs

    @property
    def differences(self) -> List[float]:
        """Of parameters and GFLOPs, counted as the paper does, from the paper's figures; 0.01 is 1 %."""
        paper = self.config.run.paper
        return [self.their_parameters / paper.parameters - 1, self.their_gflops / paper.gflops - 1]

    def agrees(self) -> bool:
        """Whether both differences are within the limit."""
        return all(abs(difference) <= LIMIT for difference in self.differences)


def configs_with_sizes() -> Iterator[Config]:
    """The packaged configs for whose network a paper gives parameters and GFLOPs."""
    for path in sorted(packaged_configs().glob("*/*.yml")):
        if path.parent.name in ("_base_", "datasets"):
            continue
        cfg = load_config(path)
        if cfg.run.paper.config == cfg.name:
            yield cfg


def size_of(cfg: Config) -> Size:
    """The size of a config's network, and its size as the paper counts."""
    model, paper = build_model(cfg), cfg.run.paper
    images = count_images(model, Preprocess(build(cfg, "EvalReader").preprocess), TYPICAL_SIZES[-1:])
    ours = theirs = network_size(model, images[-1].cost)
    if paper.overrides:
        other = build_model(load_config(cfg.path, paper.overrides))
        theirs = network_size(other, count_input(other, images[-1].padded))
    steps = steps_to_paper(paper, images, ours, theirs)
    words = [f"{what} {parameters / 1e6:.2f} M, {macs / 1e9:.2f} GFLOPs" for what, parameters, macs in steps]
    _, parameters, macs = steps[-1]
    return Size(cfg, ours.parameters / 1e6, ours.macs / 1e9, parameters / 1e6, macs / 1e9, words)


def all_sizes() -> List[Size]:
    """The sizes of all rows, with a line in the log for each."""
    configs, sizes = list(configs_with_sizes()), []
    for number, cfg in enumerate(configs, 1):
        sizes.append(size_of(cfg))
        parameters, gflops = sizes[-1].differences
        get_logger().info(f"{number} of {len(configs)}: {cfg.name}: parameters {parameters:+.1%}, GFLOPs {gflops:+.1%}")
    return sizes


def sizes_table(sizes: Optional[List[Size]] = None) -> str:
    """A Markdown table of all rows, and below it what explains differences of more than 1 %."""
    sizes = all_sizes() if sizes is None else sizes
    rows: List[List[object]] = []
    for size in sizes:
        paper, (parameters, gflops) = size.config.run.paper, size.differences
        ours = [size.config.name, paper.source, f"{size.their_parameters:.2f}"]
        costs = [f"{size.gflops:.2f}", f"{size.their_gflops:.2f}", f"{paper.gflops:g}"]
        rows.append([*ours, f"{paper.parameters:g}", f"{parameters:+.1%}", *costs, f"{gflops:+.1%}"])
    lines = [text_table(HEADER, rows, "github"), ""]
    for size in sizes:
        if not size.agrees():
            lines += [f"- {size.config.name}: {' '.join(explanation(size))}"]
    return "\n".join(lines).rstrip()


def explanation(size: Size) -> List[str]:
    """The arithmetic of a row whose size differs from the paper's by more than 1 %."""
    paper = size.config.run.paper
    words = [f"{'; then '.join(size.steps)}; the paper {paper.parameters:g} M, {paper.gflops:g} GFLOPs."]
    words += [f"The paper's inputs: {paper.inputs}."] if paper.inputs else []
    words += [f"Its network: {paper.network}."] if paper.network else []
    return [*words, *paper.remarks.split()]
