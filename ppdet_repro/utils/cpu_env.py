"""CPU settings that must be in the environment before Paddle is loaded.

Paddle 2.6 brings an old MKL that takes its slowest code path on CPUs that Intel did not make, and computes
with one thread unless OMP_NUM_THREADS says otherwise. Importing `ppdet_repro` cures both; a variable that the
user has set is left alone, and PPDET_REPRO_CPU_ENV=off leaves everything alone.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, Mapping, NamedTuple, Optional

MKL, THREADS = "MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS"
RECORD = "PPDET_REPRO_CPU_ENV"
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}  # what MKL's type 7 (Skylake-X) uses


class Outcome(NamedTuple):
    """What `apply` found: variables it set, those of them that the user had set, why it set nothing ("" if it
    did), and the numbers behind OMP_NUM_THREADS."""

    chosen: Dict[str, str]
    kept: Dict[str, str]
    idle: str
    cores: int
    processes: int


_outcome: Optional[Outcome] = None


def decide(cpuinfo: str, environ: Mapping[str, str], cores: int) -> Dict[str, str]:
    """The variables to set, given the text of /proc/cpuinfo, the user's environment and the usable cores.

    An AMD CPU gets MKL's AVX-512 (7) or AVX2 (5) path; every CPU gets a thread for each usable core, divided
    among the processes that `paddle.distributed.launch` started on this machine.
    """
    wanted = {THREADS: str(max(1, cores // local_processes(environ)))}
    flags = set(_field(cpuinfo, "flags").split())
    if _field(cpuinfo, "vendor_id") == "AuthenticAMD" and "avx2" in flags:
        wanted[MKL] = "7" if flags >= AVX512 else "5"
    return {name: value for name, value in wanted.items() if name not in environ}


def apply() -> None:
    """Set what `decide` says; to be called before Paddle is imported. Child processes decide anew."""
    global _outcome
    environ = user_environ(os.environ, _launcher_environ())
    cores = usable_cores()
    chosen = decide(_read(Path("/proc/cpuinfo")), environ, cores)
    idle = ""
    if os.environ.get(RECORD) == "off":
        idle = f"{RECORD}=off"
    elif "paddle" in sys.modules:
        idle = "Paddle was imported before ppdet_repro; import ppdet_repro first"
    else:
        os.environ.update(chosen)
        os.environ[RECORD] = " ".join(f"{name}={value}" for name, value in chosen.items())
    kept = {name: environ[name] for name in (MKL, THREADS) if name in environ}
    _outcome = Outcome({} if idle else chosen, kept, idle, cores, local_processes(environ))


def threads() -> Optional[int]:
    """How many threads OMP_NUM_THREADS gives this process; None if it says nothing."""
    first = os.environ.get(THREADS, "").split(",")[0].strip()  # a list: one number for each level of nesting
    return int(first) if first.isdigit() and int(first) else None


def describe() -> str:
    """One line for the log: what was set and why."""
    if _outcome is None:
        raise RuntimeError("cpu_env.apply() has not been called")
    if _outcome.idle:
        return f"CPU settings: none ({_outcome.idle})"
    shared = f" shared by {_outcome.processes} processes" if _outcome.processes > 1 else ""
    reasons = {(MKL, "7"): "AMD with AVX-512", (MKL, "5"): "AMD with AVX2"}
    parts = [
        f"{name}={value} ({reasons.get((name, value), f'{_outcome.cores} usable cores{shared}')})"
        for name, value in sorted(_outcome.chosen.items())
    ]
    parts += [f"{name}={value} (yours)" for name, value in sorted(_outcome.kept.items())]
    return "CPU settings: " + ", ".join(parts)


def user_environ(environ: Mapping[str, str], launcher: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The environment without what this module set in a parent process.

    Paddle's launcher gives its children OMP_NUM_THREADS=1; that is not the user's either, unless `launcher`,
    the environment the launcher was started with, has the variable.
    """
    ours = dict(item.split("=", 1) for item in environ.get(RECORD, "").split() if "=" in item)
    if launcher is not None and THREADS not in launcher and environ.get(THREADS) == "1":
        ours[THREADS] = "1"
    return {name: value for name, value in environ.items() if ours.get(name) != value}


def local_processes(environ: Mapping[str, str]) -> int:
    """How many processes `paddle.distributed.launch` started on this machine (1 without it)."""
    count = environ.get("PADDLE_LOCAL_SIZE", "1")
    return max(1, int(count)) if count.isdigit() else 1


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that this process may run on: its affinity, and its containers' quota rounded down, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(int, _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """CPU limits of this process's control groups and of all groups around them (versions 1 and 2)."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = cgroups
        elif "cpu" in controllers.split(","):
            root = cgroups / "cpu"
        else:
            continue
        group = root / path.lstrip("/")
        for place in (group, *group.parents):
            limit = _read(place / "cpu.max").split() or [
                _read(place / "cpu.cfs_quota_us").strip(),
                _read(place / "cpu.cfs_period_us").strip(),
            ]
            if all(number.isdigit() for number in limit):  # "max" and -1 mean no limit
                yield int(limit[0]) / int(limit[1])
            if place == root:
                break


def _launcher_environ() -> Optional[Dict[str, str]]:
    """The environment that `paddle.distributed.launch`, our parent, was started with; None if it is not."""
    if "PADDLE_LOCAL_SIZE" not in os.environ:
        return None
    entries = _read(Path(f"/proc/{os.getppid()}/environ")).split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry) or None


def _field(cpuinfo: str, name: str) -> str:
    """The first value of a field of /proc/cpuinfo, "" if there is none."""
    found = re.search(rf"^{name}\s*:[ \t]*(.*)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _read(path: Path) -> str:
    """A file's text, "" where it is missing or not ours to read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
