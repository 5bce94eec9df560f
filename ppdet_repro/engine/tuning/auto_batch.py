"""`--auto_batch`: the largest batch with which training fits into the memory.

The memory that training takes is a line: a part for the network, and a part for each image. Two batch sizes are
measured, the line gives the largest batch, and that one is measured, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from ppdet_repro.core.config import Config
from ppdet_repro.engine.tuning.batch_memory import Measured, Request, measure
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.logger import get_logger

SHARE = 0.8  # of the free memory that training may take
SIZES = (2, 8, 32)  # that are measured until the memory grows by GROWTH
GROWTH = 0.1
MIN_UPDATES = 16  # in an epoch: larger batches than that leave too few
FILE = "auto_batch.json"  # in the folder of the run: what was chosen
MB = 1 << 20

Measure = Callable[[int], Optional[Measured]]


class Choice(NamedTuple):
    """The batch size of a run, and that of its config, for which base_lr is meant."""

    batch_size: int
    instead_of: int

    def overrides(self, cfg: Config, processes: int) -> List[str]:
        """The values for `-o` that train with this batch size, and scale the learning rate linearly."""
        base = cfg.run.base_batch_size
        if base is None:
            base = self.instead_of * processes * cfg.run.accumulate_steps
        return [f"TrainReader.batch_size={self.batch_size}", f"base_batch_size={base}"]


def auto_batch(cfg: Config, request: Request, processes: int, resumed: bool) -> List[str]:
    """Choose the batch size of a run of `processes` processes on this machine, and log it.

    Returns values for `-o`. A run that is resumed keeps its batch size. UserError: no batch of two images fits, the
    config leaves no choice, or the folder of the run cannot be written.
    """
    file = Path(cfg.run.save_dir) / cfg.name / FILE
    choice = read_choice(file) if resumed else None
    if choice is None:
        choice, reason = choose(lambda batch_size: measure(request, batch_size), processes)
        lr = choice.batch_size / choice.instead_of
        text = f"--auto_batch: batch_size {choice.batch_size} instead of {choice.instead_of} ({reason})"
        get_logger().info(f"{text}; the learning rate is scaled linearly, x {lr:g}")
        write_output(file, json.dumps(choice._asdict()).encode())
    else:
        get_logger().info(f"--auto_batch: batch_size {choice.batch_size}, as {file} says")
    return choice.overrides(cfg, processes)


def read_choice(file: Path) -> Optional[Choice]:
    """What was chosen for a run; None if nothing was. UserError: the file is damaged."""
    if not file.is_file():
        return None
    try:
        return Choice(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{file}: damaged; delete it, and --auto_batch measures again") from error


def choose(measured: Measure, processes: int) -> Tuple[Choice, str]:
    """The largest batch that fits, and why. UserError: a batch of two images does not."""
    points, found = two_points(measured)
    limit = int(SHARE * found.available / processes)
    most = max(found.images // processes // MIN_UPDATES, min(found.batch_size, found.images // processes), 1)
    base, per_image = line(points)
    batch_size = largest(base, per_image, limit, most)
    if batch_size > max(size for size, _ in points):
        last = measured(batch_size)
        if last is None:
            batch_size = max(batch_size // 2, points[-1][0])
        else:
            points.append((batch_size, last.peak))
            base, per_image = line([points[0], points[-1]])
            batch_size = min(largest(base, per_image, limit, most), batch_size)
    if batch_size == 0:
        raise UserError(
            f"--auto_batch: one image needs {(base + per_image) / MB:,.0f} MB, and {limit / MB:,.0f} MB may be used: "
            "make the images of TrainReader smaller"
        )
    sizes = ", ".join(f"{peak / MB:,.0f} MB with {size}" for size, peak in points)
    reason = f"measured {sizes}; {limit / MB:,.0f} MB may be used, {SHARE:.0%} of what is free"
    if batch_size == most:
        reason += f", but an epoch keeps {found.images // processes // most} updates"
    return Choice(batch_size, found.batch_size), reason


def two_points(measured: Measure) -> Tuple[List[Tuple[int, int]], Measured]:
    """Batch sizes with the bytes that they take: two that differ enough to see what an image takes. UserError: not even
    the first fits."""
    first = measured(SIZES[0])
    if first is None:
        raise UserError(
            f"--auto_batch: training with a batch of {SIZES[0]} images does not fit into the memory: try "
            "-o TrainReader.batch_size=1, or make the images of TrainReader smaller"
        )
    for size in SIZES[1:]:
        second = measured(size)
        if second is None:
            break
        if second.peak > (1 + GROWTH) * first.peak or size == SIZES[-1]:
            return [(SIZES[0], first.peak), (size, second.peak)], first
    smaller = measured(2 * SIZES[0])
    if smaller is None:
        raise UserError(f"--auto_batch: a batch of {2 * SIZES[0]} images does not fit into the memory: set the batch "
                        f"size to {SIZES[0]} with -o TrainReader.batch_size={SIZES[0]}")  # fmt: skip
    return [(SIZES[0], first.peak), (2 * SIZES[0], smaller.peak)], first


def line(points: Sequence[Tuple[int, int]]) -> Tuple[float, float]:
    """The bytes for the network, and for each image, of a line through two points; an image takes one byte at least."""
    (size, peak), (other_size, other_peak) = points[0], points[-1]
    per_image = max((other_peak - peak) / (other_size - size), 1.0)
    return peak - per_image * size, per_image


def largest(base: float, per_image: float, limit: int, most: int) -> int:
    """The largest batch, up to `most`, whose bytes are within the limit; 0 if there is none."""
    return min(max(int((limit - base) // per_image), 0), most)
