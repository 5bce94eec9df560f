"""deploy/lite/benchmark_arm.sh with a replacement of adb that answers like the real one; no phone is used."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from phone import degrees, parse_times

from ppdet_repro.runtime.manifest import write_manifest
from ppdet_repro.utils.errors import UserError

SCRIPT = ROOT / "deploy" / "lite" / "benchmark_arm.sh"

# Two phones: P1, a Kirin 990, and P2. P3 exists if its state is in $P3. Pushed files are in $PHONES/SERIAL. The n-th
# start of benchmark_bin on a phone takes 20 + n ms with 4 threads.
ADB = r'''#!/usr/bin/env python3
import os, re, shutil, sys
from pathlib import Path


root = Path(os.environ["PHONES"])
arguments = sys.argv[1:]
with open(root / "log", "a") as log:
    log.write(" ".join(arguments) + "\n")
listed = {"P1": "device", "P2": "device"}
if os.environ.get("P3"):
    listed["P3"] = os.environ["P3"]
if os.environ.get("NO_PHONES"):
    listed = {}
if arguments == ["devices"]:
    print("* daemon not running; starting now at tcp:5037", file=sys.stderr)
    print("List of devices attached")
    for serial, state in listed.items():
        print(f"{serial}\t{state}")
    print()
    sys.exit()
assert arguments[0] == "-s", arguments
serial, verb, rest = arguments[1], arguments[2], arguments[3:]
if serial not in listed:
    sys.exit(f"error: device '{serial}' not found")
folder = root / serial
folder.mkdir(exist_ok=True)
PROPERTIES = {"ro.product.manufacturer": "HUAWEI", "ro.product.model": {"P1": "TAS-AL00"}.get(serial, "other"),
              "ro.board.platform": {"P1": "kirin990"}.get(serial, "msm8998"), "ro.build.version.release": "10"}

def crlf(text):
    sys.stdout.write(text.replace("\n", "\r\n"))

if verb == "push":
    source, target = rest
    assert target.startswith("/data/local/tmp/benchmark/")
    if not (folder / "made").exists():
        sys.exit("adb: error: remote couldn't create file: No such file or directory")
    shutil.copy(source, folder / Path(target).name)
    print(f"{source}: 1 file pushed, 0 skipped. 30.1 MB/s (1024 bytes in 0.001s)")
elif verb == "shell":
    line = rest[0]
    if line.startswith("mkdir"):
        (folder / "made").touch()
    elif line.startswith("chmod"):
        (folder / Path(line.split()[-1]).name).chmod(0o755)
    elif line.startswith("getprop"):
        crlf(PROPERTIES.get(line.split()[1], "") + "\n")
    elif "scaling_governor" in line:
        crlf("schedutil\n" * 8)
    elif "thermal_zone" in line:
        crlf("battery 30000\ncpu-0-0 41500\ncpu-0-1 43000\n" if serial == "P1" else " \n \n")
    elif line == "dumpsys battery":
        crlf("Current Battery Service state:\n  level: 80\n  temperature: 312\n")
    elif "benchmark_bin" in line:
        if not os.access(folder / "benchmark_bin", os.X_OK):
            print("/system/bin/sh: ./benchmark_bin: can't execute: Permission denied"); sys.exit(126)
        if (folder / "benchmark_bin").read_text() == "x86":
            print("/system/bin/sh: ./benchmark_bin: not executable: 64-bit ELF file"); sys.exit(126)
        if (folder / "benchmark_bin").read_text() == "help":
            print("Usage: benchmark_bin --optimized_model_file ..."); sys.exit(0)
        values = dict(re.findall(r"--(\w+)=(\S+)", line))
        assert (folder / values["optimized_model_file"]).is_file()
        with open(folder / "starts", "a") as starts:
            starts.write("x")
        count = len((folder / "starts").read_text())
        mean = (20 + count) * 4 / int(values["threads"])
        crlf(f"""
======= Device Info =======
Brand: HUAWEI
======= Runtime Info =======
benchmark_bin version: v2.13-rc
threads: {values["threads"]}
======= Perf Info =======
Time(unit: ms):
init  = 12.500      
first = {mean + 9:.3f}      
min   = {mean - 1:.3f}      
max   = {mean + 3:.3f}      
avg   = {mean:.3f}      

""")
    else:
        sys.exit(f"unknown: {line}")
'''  # noqa: W291


@pytest.fixture
def phones(tmp_path):
    """Runs the script with the replacement of adb; `phones.folder` contains the files of the phones."""
    (tmp_path / "bin").mkdir()
    adb = tmp_path / "bin" / "adb"
    adb.write_text(ADB.replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1))
    adb.chmod(0o755)
    (tmp_path / "phones").mkdir()
    (tmp_path / "benchmark_bin").write_text("arm64")
    for name in ("pafnet_lite.nb", "yolof.nb"):
        (tmp_path / name).write_text("model")

    def run(*flags, path=None, models=("pafnet_lite.nb",), **environ):
        line = [str(SCRIPT), "--binary", str(tmp_path / "benchmark_bin"), "--output", str(tmp_path / "out" / "arm.csv")]
        line += ["--model", *(str(tmp_path / model) for model in models), *flags]
        path = path or f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "PHONES": str(tmp_path / "phones"), "PYTHON": sys.executable, **environ}
        return subprocess.run(line, capture_output=True, text=True, env=environ, timeout=120, check=False)

    run.folder = tmp_path
    return run


def rows(phones):
    with open(phones.folder / "out" / "arm.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_all_phones_threads_and_protocols_are_measured(phones):
    done = phones("--rounds", "3")
    assert done.returncode == 0, done.stderr
    table = rows(phones)
    cases = [(row["device"], row["protocol"], row["threads"]) for row in table]
    assert cases == [(d, p, t) for d in ("HUAWEI TAS-AL00", "HUAWEI other") for p in ("v2.9", "v2.11") for t in "124"]
    settings = {(row["protocol"], row["threads"]): (row["warmup"], row["repeats"], row["power_mode"]) for row in table}
    assert settings[("v2.9", "1")] == ("10", "100", "0") and settings[("v2.11", "4")] == ("20", "600", "0")
    assert settings[("v2.9", "4")] == ("10", "100", "3")  # more threads were not bound then
    first = table[0]
    # Rounds 1, 2, 3 with one thread: 84, 88, 92 ms; p95 = 88 + 0.9 * 4
    assert (first["median_ms"], first["mean_ms"], first["p95_ms"]) == ("88.000", "88.000", "91.600")
    assert (first["min_ms"], first["max_ms"], first["init_ms"]) == ("83.000", "95.000", "12.500")
    assert (first["soc"], first["android"], first["governor"]) == ("kirin990", "10", "schedutil")
    assert first["lite"] == "v2.13-rc" and first["celsius_before"] == "43.0"  # of the hottest CPU sensor
    assert table[-1]["celsius_before"] == "31.2"  # of the battery, because no sensor can be read


def test_results_are_compared_with_the_papers_figure_and_the_conditions_listed(phones):
    done = phones("--rounds", "1", "--threads", "4", "--protocol", "v2.11", models=("pafnet_lite.nb", "yolof.nb"))
    lines = done.stdout.splitlines()
    kirin = next(line for line in lines if "kirin990" in line and "pafnet_lite" in line)
    assert "median 21.000 ms" in kirin and "0.81 of the paper's 26.00 ms" in kirin  # 21 / 26
    assert "Kirin 990, not" not in kirin and "are not stated, here v2.13-rc, 20, 600, bound to the big cores" in kirin
    assert any("Kirin 990, not msm8998" in line for line in lines)
    assert not any("paper" in line for line in lines if "yolof.nb" in line)
    assert [row["paper_ms"] for row in rows(phones)] == ["26.00", "", "26.00", ""]


def test_a_dry_run_prints_the_commands_and_touches_nothing(phones):
    one_case = ("--threads", "4", "--protocol", "v2.9", "--cores", "f0")
    done = phones("--dry-run", "--device", "A", "B", *one_case, path="/bin:/usr/bin")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 5  # mkdir, two pushes, chmod, one case
    assert lines[0] == "adb -s A shell 'mkdir -p /data/local/tmp/benchmark'"
    assert "taskset f0 ./benchmark_bin --optimized_model_file=pafnet_lite.nb" in lines[4]
    assert "--warmup=10 --repeats=100 --threads=4 --power_mode=3 --backend=arm --cpu_precision=fp32" in lines[4]
    assert not (phones.folder / "out").exists() and not (phones.folder / "phones" / "log").exists()


@pytest.mark.parametrize(
    "flags, environ, message",
    [
        ([], {"NO_PHONES": "1"}, "adb finds no phone: plug one in"),
        (["--device", "P9"], {}, "adb finds no phone P9; it finds P1, P2"),
        ([], {"P3": "unauthorized"}, "phone P3 has not authorized this computer"),
        ([], {"P3": "no permissions (user in plugdev group)"}, "phone P3 cannot be accessed by this user"),
        ([], {"P3": "offline"}, "phone P3 does not respond"),
        (["--model", "absent.nb"], {}, "--model absent.nb is not a file"),
        (["--binary", "absent"], {}, "--binary absent is not a file; Paddle-Lite's lite/tools/build_android.sh"),
    ],
)
def test_what_is_missing_is_an_error_of_one_line(phones, flags, environ, message):
    done = phones(*flags, **environ)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


def test_the_error_without_adb_says_what_to_install(phones):
    done = phones(path="/nonexistent:/bin")
    if (Path("/bin") / "adb").exists():
        pytest.skip("adb is in /bin")
    assert done.returncode == 2 and done.stderr == "error: adb is not on the PATH; install Android's platform-tools\n"


@pytest.mark.parametrize(
    "content, message", [("x86", "not executable: 64-bit ELF file"), ("help", "benchmark_bin printed no times")]
)
def test_a_binary_that_does_not_run_is_an_error_per_phone(phones, content, message):
    (phones.folder / "benchmark_bin").write_text(content)
    done = phones("--rounds", "1")
    assert done.returncode == 2 and done.stderr.count(message) == 2
    assert "P1: " in done.stderr and "P2: " in done.stderr and rows(phones) == []


def test_old_binaries_print_average():
    assert parse_times("min = 30.1  \nmax = 35.0\naverage = 31.5\n") == {"min": 30.1, "max": 35.0, "avg": 31.5}
    with pytest.raises(UserError, match=r"its last line: \(nothing\)"):
        parse_times("")


def test_temperatures_in_degrees_or_thousandths():
    assert degrees("43000") == 43.0 and degrees("43") == 43.0 and degrees("-5") == -5.0


def test_a_model_that_its_manifest_does_not_know_is_one_line(phones):
    write_manifest(phones.folder, "a", None, {"inputs": [], "outputs": []})
    assert phones("--dry-run").returncode == 0
    (phones.folder / "pafnet_lite.nb").write_text("mOdel")
    done = phones("--dry-run")
    assert done.returncode == 2 and "pafnet_lite.nb is not what was exported" in done.stderr
    assert done.stderr.count("\n") == 1
