"""CPU settings that must be in the environment before Paddle is imported.

Paddle 2.6 contains an old MKL that uses its slowest code path on CPUs from other makers than Intel, and it uses one
thread unless OMP_NUM_THREADS is set. Importing `ppdet_repro` fixes both. It does not change variables that the user
has set; with PPDET_REPRO_CPU_ENV=off it changes none.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, Mapping, Optional

MKL, THREADS = "MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS"
RECORD = "PPDET_REPRO_CPU_ENV"
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}  # what MKL's type 7 (Skylake-X) uses


_report = "none (ppdet_repro was not imported)"  # what `apply` did


def decide(cpuinfo: str, environ: Mapping[str, str], cores: int) -> Dict[str, str]:
    """The variables to set, for the text of /proc/cpuinfo, the user's environment and the number of usable cores.

    MKL uses its AVX-512 (7) or AVX2 (5) code path on AMD CPUs. There is one thread per usable core, divided among the
    processes that `paddle.distributed.launch` started on this machine.
    """
    wanted = {THREADS: str(max(1, cores // local_processes(environ)))}
    flags = set(_field(cpuinfo, "flags").split())
    if _field(cpuinfo, "vendor_id") == "AuthenticAMD" and "avx2" in flags:
        wanted[MKL] = "7" if flags >= AVX512 else "5"
    return {name: value for name, value in wanted.items() if name not in environ}


def apply() -> None:
    """Set the variables of `decide`. Call it before Paddle is imported. Child processes decide for themselves."""
    global _report
    environ = user_environ(os.environ, _launcher_environ())
    cores, processes = usable_cores(), local_processes(environ)
    if os.environ.get(RECORD) == "off":
        _report = f"none ({RECORD}=off)"
    elif "paddle" in sys.modules:
        _report = "none (Paddle was imported before ppdet_repro; import ppdet_repro first)"
    else:
        chosen = decide(_read(Path("/proc/cpuinfo")), environ, cores)
        os.environ.update(chosen)
        os.environ[RECORD] = " ".join(f"{name}={value}" for name, value in chosen.items())
        shared = f" shared by {processes} processes" if processes > 1 else ""
        amd = "AMD with AVX-512" if chosen.get(MKL) == "7" else "AMD with AVX2"
        reasons = {MKL: amd, THREADS: f"{cores} usable cores{shared}"}
        parts = [f"{name}={chosen[name]} ({reasons[name]})" for name in sorted(chosen)]
        parts += [f"{name}={environ[name]} (set by you)" for name in (MKL, THREADS) if name in environ]
        _report = ", ".join(parts)


def threads() -> Optional[int]:
    """The number of threads in OMP_NUM_THREADS; None if it is not set."""
    first = os.environ.get(THREADS, "").split(",")[0].strip()  # a list has one number per level of nesting
    return int(first) if first.isdigit() and int(first) else None


def describe() -> str:
    """One line for the log that says which variables were set and why."""
    return f"CPU settings: {_report}"


def user_environ(environ: Mapping[str, str], launcher: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The environment without the variables that this module set in a parent process.

    Paddle's launcher starts its children with OMP_NUM_THREADS=1. This is not a choice of the user either, unless the
    variable is in `launcher`, the environment that the launcher was started with.
    """
    ours = dict(item.split("=", 1) for item in environ.get(RECORD, "").split() if "=" in item)
    if launcher is not None and THREADS not in launcher and environ.get(THREADS) == "1":
        ours[THREADS] = "1"
    return {name: value for name, value in environ.items() if ours.get(name) != value}


def local_processes(environ: Mapping[str, str]) -> int:
    """The number of processes that `paddle.distributed.launch` started on this machine; 1 without it."""
    count = environ.get("PADDLE_LOCAL_SIZE", "1")
    return max(1, int(count)) if count.isdigit() else 1


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The number of CPUs that this process may use, by its affinity and its container's quota; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(int, _quotas(cgroups, own))]))


def has_vnni(cpuinfo: Optional[str] = None) -> bool:
    """Whether this processor adds products of 8-bit numbers in 32 bits; True on systems that do not say.

    Without VNNI, oneDNN, in Paddle and in OpenVINO, adds two products in 16 bits, where they saturate. `cpuinfo` is the
    text of /proc/cpuinfo, by default this machine's.
    """
    flags = _field(_read(Path("/proc/cpuinfo")) if cpuinfo is None else cpuinfo, "flags").split()
    return not flags or "avx512_vnni" in flags or "avx_vnni" in flags


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """The CPU limits of this process's control groups (version 1 and 2) and of all their parents."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            old = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            limit = _read(folder / "cpu.max").split() or old
            if all(number.isdigit() for number in limit):  # "max" and -1 mean no limit
                yield int(limit[0]) / int(limit[1])
            if folder == root:
                break


def _launcher_environ() -> Optional[Dict[str, str]]:
    """The environment of our parent process if that is `paddle.distributed.launch`, otherwise None."""
    if "PADDLE_LOCAL_SIZE" not in os.environ:
        return None
    entries = _read(Path(f"/proc/{os.getppid()}/environ")).split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry) or None


def _field(cpuinfo: str, name: str) -> str:
    """The first value of a field of /proc/cpuinfo; "" if there is none."""
    found = re.search(rf"^{name}\s*:[ \t]*(.*)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _read(path: Path) -> str:
    """The text of a file; "" if it is missing or not readable."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
