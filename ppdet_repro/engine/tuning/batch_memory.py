"""The memory that training takes with a batch size: measured in a process of its own, which makes two updates.

The process computes as a run would, with the largest inputs that the config can make: the largest of several sizes, and
the images of the dataset that are widest, highest, and have most boxes. It writes no files.

b batch size
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from ppdet_repro.core.contract import Batch
from ppdet_repro.data.source.base import Source
from ppdet_repro.data.transform.base import Sample
from ppdet_repro.engine.training.step import NanGuard
from ppdet_repro.utils.errors import UserError

UPDATES = 2  # the second has the buffers of the optimizer that the first has made
CHILD = "import sys; from ppdet_repro.engine.tuning.batch_memory import child; child(sys.argv[1])"
ANSWER = "memory of a batch: "  # stands before the last line of output
PACKAGE_ROOT = Path(__file__).resolve().parents[3]


class Measured(NamedTuple):
    """What a process measured."""

    peak: int  # bytes that training takes at most
    available: int  # bytes that there were before: free memory, or on a GPU all of its memory
    images: int  # of the training set, with repetitions
    batch_size: int  # of the config


class Request(NamedTuple):
    """What a process measures: the config as `load_config` takes it, and a batch size (None: the config's)."""

    config: str
    overrides: Sequence[str]
    slim_config: Optional[str] = None
    offline: bool = False


def measure(request: Request, batch_size: int) -> Optional[Measured]:
    """Measure in a process of its own. None if the memory is too small. UserError: training could not start."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [environ.get("PYTHONPATH")])])
    arguments = json.dumps({**request._asdict(), "batch_size": batch_size})
    done = subprocess.run([sys.executable, "-c", CHILD, arguments], env=environ, capture_output=True, text=True)
    found = re.findall(f"^{ANSWER}(.*)$", done.stdout, re.MULTILINE)
    if found:
        answer = json.loads(found[-1])
        if "error" in answer:
            raise UserError(answer["error"])
        return Measured(**answer)
    if done.returncode == -9 or re.search("out of memory|MemoryError|ResourceExhausted", done.stderr, re.IGNORECASE):
        return None
    raise RuntimeError(f"the process that measures the memory failed:\n{done.stderr[-4000:]}")


def child(text: str) -> None:
    """Measure, and print the result; `text` is the request as JSON."""
    request = json.loads(text)
    try:
        answer: Dict[str, Any] = measure_here(**request)._asdict()
    except UserError as error:
        answer = {"error": str(error)}
    print(f"{ANSWER}{json.dumps(answer)}", flush=True)


def measure_here(
    config: str, overrides: Sequence[str], slim_config: Optional[str], offline: bool, batch_size: int
) -> Measured:
    """Make two updates with batches of `batch_size` images in this process. UserError: training could not start."""
    from ppdet_repro.core.config import load_config
    from ppdet_repro.engine import distributed
    from ppdet_repro.engine.training.assembly import assemble
    from ppdet_repro.engine.training.loop import TrainingLoop

    cfg = load_config(config, overrides, slim_config)
    world = distributed.start(cfg.run.use_gpu)
    memory = GpuMemory() if world.gpu else CpuMemory(cfg.run.worker_num)
    available = memory.available()
    run = assemble(cfg, world, None, offline)
    phases, reader, dataset = run.data.phases.phases, run.data.readers[0], run.data.dataset
    if any(phase.batch_size is not None for phase in phases):
        raise UserError(f"{cfg.path}: --auto_batch cannot choose where TrainPhases sets batch_size; leave it out")
    loop, own_size = TrainingLoop(run), reader.batch_size
    loop.start_phase(max(phases, key=lambda phase: trainable(run, phase)))
    loop.step.guard = Ignored("stop", run.folder)
    use_largest_size(reader.preprocess)
    reader.batch_size, reader.shuffle, reader.epoch_steps = batch_size, False, None
    images = Images(dataset, largest_images(dataset), batch_size * UPDATES)
    batches: Iterator[Batch] = iter(
        reader.batches(images, epoch=0, epochs_total=max(cfg.run.epoch, 1), seed=0, workers=cfg.run.worker_num)
    )
    memory.before_workers()
    run.model.train()
    for batch in batches:
        loop.step([batch])
    return Measured(memory.peak(), available, len(dataset), own_size)


class Ignored(NanGuard):
    """Lets updates whose losses are not finite pass: they take the same memory."""

    def caught(self, step: int, culprits: Sequence[str], batches: Sequence[Batch]) -> None:
        pass


def trainable(run: Any, phase: Any) -> int:
    """The number of parameters that a phase trains."""
    run.freezer.apply(phase)
    return sum(p.size for p in run.model.parameters() if not p.stop_gradient)


def use_largest_size(transforms: Sequence[Any]) -> None:
    """Let transforms that draw one of several sizes always take the largest."""
    for transform in transforms:
        values = vars(transform) if hasattr(transform, "__dict__") else {}
        if "short_side_sizes" in values:
            transform.short_side_sizes = (max(transform.short_side_sizes),)
        elif values.get("random_range"):
            (_, long), (longest, other_long) = transform.sizes
            transform.sizes = [(longest, long), (longest, other_long)]
        elif "sizes" in values:
            transform.sizes = [max(transform.sizes, key=lambda size: size[0] * size[1])]
        for value in values.values():
            if isinstance(value, (list, tuple)):
                use_largest_size(value)


def largest_images(dataset: Source) -> List[int]:
    """The indices of the images that are widest and highest for their other side, and that have most boxes."""
    table = dataset.table
    chosen = [int(np.argmax(np.diff(table.starts)))]
    if table.sizes is not None and len(table.sizes) > 0:
        ratio = table.sizes[:, 1] / table.sizes[:, 0]
        chosen = [int(np.argmax(ratio)), int(np.argmin(ratio)), *chosen]
    return chosen


class Images:
    """A dataset of `count` images: the chosen ones of another dataset, again and again."""

    def __init__(self, dataset: Source, chosen: Sequence[int], count: int):
        self.dataset, self.chosen, self.count = dataset, list(chosen), count

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Sample:
        return self.dataset.record(self.chosen[index % len(self.chosen)])


class CpuMemory:
    """The main memory, as Linux counts it. Data workers that were forked share what this process has at that time."""

    def __init__(self, workers: int, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")):
        self.workers, self.proc, self.cgroups, self.shared = workers, proc, cgroups, 0

    def available(self) -> int:
        """Free memory in bytes, or what is left of this container's."""
        free = [kilobytes(self.proc / "meminfo", "MemAvailable")]
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
        ):
            texts = [read(self.cgroups / name) for name in (limit, used)]
            if all(text.isdigit() for text in texts):
                stat = read((self.cgroups / limit).with_name("memory.stat"))
                cached = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
                free.append(int(texts[0]) - int(texts[1]) + (int(cached[1]) if cached else 0))
        return max(min(free), 0)

    def before_workers(self) -> None:
        self.shared = kilobytes(self.proc / "self" / "status", "VmRSS")

    def peak(self) -> int:
        """The most that this process and its data workers together had, in bytes."""
        of_a_worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        workers = self.workers * max(of_a_worker - self.shared, 0)
        return kilobytes(self.proc / "self" / "status", "VmHWM") + workers


class GpuMemory:
    """The memory of the GPU that this process uses. Other programs on it are not seen."""

    def available(self) -> int:
        import paddle

        return int(paddle.device.cuda.get_device_properties().total_memory)

    def before_workers(self) -> None:
        """Nothing to do: workers do not use the GPU."""

    def peak(self) -> int:
        """The most that Paddle took of the GPU, in bytes."""
        import paddle

        return int(paddle.device.cuda.max_memory_reserved())


def kilobytes(path: Path, name: str) -> int:
    """A value in kB of a file of /proc, in bytes. UserError: this system does not have it."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", read(path), re.MULTILINE)
    if not found:
        raise UserError(f"--auto_batch: {path} has no {name}; choose the batch size with -o TrainReader.batch_size")
    return int(found[1]) * 1024


def read(path: Path) -> str:
    """The text of a file without the last newline; "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
