"""The CPU settings: which variables are set, for which CPU, and that the user's own win."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppdet_repro.utils import cpu_env
from ppdet_repro.utils.cpu_env import decide, has_vnni, usable_cores, user_environ

ZEN4 = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model name\t: AMD EPYC 9654 96-Core Processor
flags\t\t: fpu sse2 fma avx f16c avx2 bmi2 avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512_bf16

processor\t: 1
vendor_id\t: AuthenticAMD
"""
ZEN2 = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD Ryzen 7 3700X 8-Core Processor
flags\t\t: fpu sse2 fma avx f16c avx2 bmi2
"""
BULLDOZER = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 avx fma4\n"
XEON = ZEN4.replace("AuthenticAMD", "GenuineIntel")
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm\n"


@pytest.mark.parametrize(
    "cpuinfo, mkl",
    [
        (ZEN4, {"MKL_DEBUG_CPU_TYPE": "7"}),
        (ZEN2, {"MKL_DEBUG_CPU_TYPE": "5"}),
        (ZEN4.replace("avx512vl", ""), {"MKL_DEBUG_CPU_TYPE": "5"}),  # 7 needs all five extensions
        (BULLDOZER, {}),
        (XEON, {}),
        (ARM, {}),
        ("", {}),
    ],
)
def test_an_amd_cpu_gets_mkls_fast_path_and_no_other_does(cpuinfo, mkl):
    assert decide(cpuinfo, {}, cores=2) == {"OMP_NUM_THREADS": "2", **mkl}


def test_what_the_user_set_is_left_alone_even_when_empty():
    assert decide(ZEN4, {"OMP_NUM_THREADS": "1"}, 8) == {"MKL_DEBUG_CPU_TYPE": "7"}
    assert decide(ZEN4, {"MKL_DEBUG_CPU_TYPE": ""}, 8) == {"OMP_NUM_THREADS": "8"}


@pytest.mark.parametrize("cores, processes, threads", [(8, 2, "4"), (8, 3, "2"), (2, 2, "1"), (2, 4, "1")])
def test_processes_of_one_machine_share_its_cores(cores, processes, threads):
    environ = {"PADDLE_LOCAL_SIZE": str(processes), "PADDLE_TRAINERS_NUM": "16"}
    assert decide(XEON, environ, cores) == {"OMP_NUM_THREADS": threads}


def test_a_child_process_decides_anew_about_what_its_parent_set_here():
    inherited = {"OMP_NUM_THREADS": "8", "PPDET_REPRO_CPU_ENV": "OMP_NUM_THREADS=8", "PADDLE_LOCAL_SIZE": "2"}
    assert decide(XEON, user_environ(inherited), 8) == {"OMP_NUM_THREADS": "4"}
    inherited["OMP_NUM_THREADS"] = "3"  # changed in between: the user's
    assert decide(XEON, user_environ(inherited), 8) == {}


def test_the_one_thread_that_paddles_launcher_imposes_is_not_taken_for_the_users():
    child = {"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "2"}
    assert decide(XEON, user_environ(child, launcher={"HOME": "/"}), 8) == {"OMP_NUM_THREADS": "4"}
    assert decide(XEON, user_environ(child, launcher={"OMP_NUM_THREADS": "1"}), 8) == {}


def group(root: Path, name: str, **files: str) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (root / name / file.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    "cpuinfo, vnni",
    [
        (ZEN4, False),
        (ZEN4.replace("avx512_bf16", "avx512_vnni"), True),
        (ZEN2.replace("bmi2", "avx_vnni"), True),
        (ZEN2, False),
        (ARM, True),
        ("", True),
    ],
)
def test_vnni_is_in_the_flags(cpuinfo, vnni):
    assert has_vnni(cpuinfo) == vnni


@pytest.mark.parametrize(
    "own, files, cores",
    [
        ("0::/a/b\n", {"a": {"cpu__max": "250000 100000\n"}, "a/b": {"cpu__max": "max 100000\n"}}, 2),
        ("0::/\n", {".": {"cpu__max": "50000 100000\n"}}, 1),  # half a core is still one thread
        ("0::/\n", {".": {"cpu__max": "max 100000\n"}}, 4),
        (
            "4:cpu,cpuacct:/not/visible/here\n2:memory:/x\n0::/\n",
            {"cpu": {"cpu__cfs_quota_us": "300000\n", "cpu__cfs_period_us": "100000\n"}},
            3,
        ),
        ("1:cpu:/\n", {"cpu": {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}}, 4),
        ("", {}, 4),
    ],
)
def test_usable_cores_are_the_affinity_within_the_containers_quota(tmp_path, monkeypatch, own, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for name, content in files.items():
        group(tmp_path / "cgroup", name, **content)
    (tmp_path / "own").write_text(own)
    assert usable_cores(tmp_path / "cgroup", tmp_path / "own") == cores


def imported(code: str = "", **environ: str) -> dict:
    """Environment and description in a fresh process that imports the package after `code`."""
    script = (
        f"import json, os, sys\n{code}\nimport ppdet_repro\nfrom ppdet_repro.utils import cpu_env\n"
        "print(json.dumps([dict(os.environ), cpu_env.describe(), 'paddle' in sys.modules]))"
    )
    names = (cpu_env.MKL, cpu_env.THREADS, cpu_env.RECORD)
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**clean, **environ}, check=True, capture_output=True, text=True
    )
    env, line, paddle = json.loads(done.stdout)
    return {"env": env, "line": line, "paddle": paddle}


def test_importing_the_package_applies_them_and_does_not_import_paddle():
    found = imported()
    assert found["env"]["OMP_NUM_THREADS"] == str(usable_cores())
    assert f"OMP_NUM_THREADS={usable_cores()} ({usable_cores()} usable cores)" in found["line"]
    assert not found["paddle"]


def test_the_line_names_the_users_own_values():
    found = imported(OMP_NUM_THREADS="1", MKL_DEBUG_CPU_TYPE="5")
    assert found["line"] == "CPU settings: MKL_DEBUG_CPU_TYPE=5 (set by you), OMP_NUM_THREADS=1 (set by you)"


def test_off_leaves_everything_alone():
    found = imported(PPDET_REPRO_CPU_ENV="off")
    assert "OMP_NUM_THREADS" not in found["env"]
    assert found["line"] == "CPU settings: none (PPDET_REPRO_CPU_ENV=off)"


def test_when_paddle_was_first_it_is_too_late_and_the_line_says_so():
    found = imported("sys.modules['paddle'] = sys")
    assert "OMP_NUM_THREADS" not in found["env"]
    assert found["line"].startswith("CPU settings: none (Paddle was imported before ppdet_repro")


@pytest.mark.parametrize("text, count", [("2", 2), ("4,2", 4), ("", None), ("0", None), ("many", None)])
def test_the_number_of_threads_that_omp_num_threads_asks_for(monkeypatch, text, count):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cpu_env.threads() == count
