"""Measure the speed of .nb models on Android phones with Paddle-Lite's benchmark_bin, and compare with the paper.

benchmark_bin prints the mean of its runs, but no quantiles. So it is started --rounds times; median and p95 are those
of the means. Written from Paddle-Lite's source and tested with a replacement of adb; never run on a phone.
"""

from __future__ import annotations

import argparse
import csv
import shlex
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence

import _checkout
import numpy as np
from phone import FOLDER, Phone, PhoneFacts, attached, lite_version, parse_times, run

from ppdet_repro.runtime.manifest import MANIFEST
from ppdet_repro.runtime.manifest import check_files as check_exported
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command

PAPER_MS, PAPER_SOC = 26.00, "kirin990"  # PAFNet-lite, 320 px: PAFNet, table 2, "Latency on ARM 4xCore(ms)"
BIG_CORES, NO_BIND = 0, 3  # power modes of benchmark_bin: bound to the big cores, or scheduled by the system


class Protocol(NamedTuple):
    """How the tables in Paddle-Lite's documentation were measured."""

    warmup: int  # runs that are not timed
    repeats: int  # timed runs
    binds_threads: bool  # whether more than one thread is bound to the big cores

    def power_mode(self, threads: int) -> int:
        return BIG_CORES if threads == 1 or self.binds_threads else NO_BIND


PROTOCOLS = {"v2.9": Protocol(10, 100, False), "v2.11": Protocol(20, 600, True)}


class Case(NamedTuple):
    """One row of the results."""

    model: Path
    protocol: str
    threads: int

    def command(self, phone: Phone, flags: argparse.Namespace) -> List[str]:
        protocol = PROTOCOLS[self.protocol]
        parts = [
            f"./{flags.binary.name}",
            f"--optimized_model_file={self.model.name}",
            f"--input_shape={flags.input_shape}",
            f"--warmup={protocol.warmup}",
            f"--repeats={protocol.repeats}",
            f"--threads={self.threads}",
            f"--power_mode={protocol.power_mode(self.threads)}",
            "--backend=arm",
            f"--cpu_precision={flags.precision}",
        ]
        bound = ["taskset", flags.cores] if flags.cores else []
        return phone.command("shell", f"cd {FOLDER} && {shlex.join(bound + parts)}")


COLUMNS = (
    "device", "soc", "android", "governor", "celsius_before", "celsius_after", "lite", "model", "input_shape",
    "precision", "protocol", "threads", "power_mode", "cores", "warmup", "repeats", "rounds", "init_ms", "min_ms",
    "max_ms", "mean_ms", "median_ms", "p95_ms", "paper_ms",
)  # fmt: skip


def main() -> None:
    flags = parse_flags()
    cases = [Case(m, p, t) for m in flags.model for p in flags.protocol for t in flags.threads]
    check_files(flags)
    if flags.dry_run:
        for phone in [Phone(serial) for serial in flags.device or ["SERIAL"]]:
            pushes = phone.push_commands([flags.binary, *flags.model])
            for command in [*pushes, *(case.command(phone, flags) for case in cases)]:
                print(shlex.join(command))
        return
    phones, failures = attached(flags.device), []
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    with open(flags.output, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for phone in phones:
            try:
                for row in measure(phone, cases, flags):
                    table.writerow(row)
                    file.flush()  # unplugging the phone loses one row only
                    print(sentence(row))
            except UserError as error:
                failures.append(f"{phone.serial}: {error}")
    print(f"results in {flags.output}")
    if failures:
        raise UserError("; ".join(failures))


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--binary", type=Path, required=True, help="benchmark_bin, built for the phone")
    add("--model", type=Path, nargs="+", required=True, metavar="FILE", help=".nb files for arm")
    add("--device", nargs="+", default=[], metavar="SERIAL", help="phones (default: all)")
    add("--threads", type=at_least_one, nargs="+", default=[1, 2, 4], help="default: 1 2 4")
    text = "the measurement of which version of Paddle-Lite's documentation (default: all)"
    add("--protocol", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS), help=text)
    add("--rounds", type=at_least_one, default=5, help="starts of benchmark_bin per row (default: 5)")
    add("--input_shape", default="1,3,320,320", help="default: 1,3,320,320")
    add("--precision", choices=["fp32", "fp16"], default="fp32", help="default: fp32")
    add("--cores", metavar="MASK", help="also bind with taskset, such as f0 for the cores 4 to 7")
    default = Path("output/lite/benchmark_arm.csv")
    add("--output", type=Path, default=default, metavar="FILE", help=f"table to write (default: {default})")
    add("--dry-run", action="store_true", help="only print the commands")
    return parser.parse_args()


def check_files(flags: argparse.Namespace) -> None:
    """UserError if the binary or a model does not exist, or a model is not what the manifest beside it says."""
    if not flags.binary.is_file():
        script = "Paddle-Lite's lite/tools/build_android.sh --with_benchmark=ON full_publish"
        raise UserError(f"--binary {flags.binary} is not a file; {script} builds benchmark_bin")
    for model in flags.model:
        if not model.is_file() or not model.stat().st_size:
            raise UserError(f"--model {model} is not a file, or is empty; tools/export_model.py writes .nb files")
        if model.with_name(MANIFEST).exists():
            check_exported([model], model.with_name("infer_cfg.yml"))


def measure(phone: Phone, cases: Sequence[Case], flags: argparse.Namespace) -> Iterator[Dict[str, object]]:
    """Measure all cases on a phone; yields a row per case."""
    for command in phone.push_commands([flags.binary, *flags.model]):
        run(command)
    facts = phone.facts()
    for case in cases:
        before = phone.temperature()
        outputs = [run(case.command(phone, flags)) for _ in range(flags.rounds)]
        yield make_row(facts, case, flags, outputs, (before, phone.temperature()))


def make_row(
    facts: PhoneFacts, case: Case, flags: argparse.Namespace, outputs: Sequence[str], celsius: Sequence[float]
) -> Dict[str, object]:
    """A row of the results from the outputs of all rounds."""
    rounds = [parse_times(output) for output in outputs]
    means = [times["avg"] for times in rounds]
    protocol = PROTOCOLS[case.protocol]
    numbers = {
        "init_ms": np.median([times.get("init", np.nan) for times in rounds]),
        "min_ms": min(times.get("min", np.nan) for times in rounds),
        "max_ms": max(times.get("max", np.nan) for times in rounds),
        "mean_ms": np.mean(means),
        "median_ms": np.median(means),
        "p95_ms": np.percentile(means, 95),
    }
    return {
        **facts._asdict(),
        "celsius_before": f"{celsius[0]:.1f}",
        "celsius_after": f"{celsius[1]:.1f}",
        "lite": lite_version(outputs[0]),
        "model": case.model.name,
        "input_shape": flags.input_shape,
        "precision": flags.precision,
        "protocol": case.protocol,
        "threads": case.threads,
        "power_mode": protocol.power_mode(case.threads),
        "cores": flags.cores or "",
        "warmup": protocol.warmup,
        "repeats": protocol.repeats,
        "rounds": len(rounds),
        **{name: f"{value:.3f}" for name, value in numbers.items()},
        "paper_ms": f"{PAPER_MS:.2f}" if "pafnet_lite" in case.model.name.lower().replace("-", "_") else "",
    }


def sentence(row: Dict[str, object]) -> str:
    """A row as text, compared with the paper's figure if there is one."""
    text = f"{row['device']} ({row['soc']}): {row['model']}, {row['protocol']}, {row['threads']} threads"
    text += f": median {row['median_ms']} ms, p95 {row['p95_ms']} ms"
    if not row["paper_ms"]:
        return text
    ratio = float(str(row["median_ms"])) / PAPER_MS
    return f"{text}; {ratio:.2f} of the paper's {PAPER_MS:.2f} ms; the conditions differ: {'; '.join(differences(row))}"


def differences(row: Dict[str, object]) -> List[str]:
    """The conditions that differ, or may differ, from those of the paper."""
    binding = "bound to the big cores" if row["power_mode"] == BIG_CORES else "not bound"
    here = f"{row['lite']}, {row['warmup']}, {row['repeats']}, {binding}, none"
    conditions = {
        f"Kirin 990, not {row['soc']}": PAPER_SOC not in str(row["soc"]).lower().replace(" ", ""),
        f"4 cores, not {row['threads']} threads": row["threads"] != 4,
        f"320 x 320 px, not {row['input_shape']}": row["input_shape"] != "1,3,320,320",
        f"precision not stated, here {row['precision']}": row["precision"] != "fp32",
        f"Paddle-Lite's version, warm-up, repeats, binding and post-processing are not stated, here {here}": True,
    }
    return [text for text, differs in conditions.items() if differs]


if __name__ == "__main__":
    run_command(main)
