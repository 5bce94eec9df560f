"""An Android phone behind adb: what it is, and how benchmark_bin is put on it and run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from ppdet_repro.utils.errors import UserError

FOLDER = "/data/local/tmp/benchmark"
TIMEOUT = 1800  # seconds for one command; 600 repeats of a slow model take minutes
STATES = {
    "unauthorized": "has not allowed this computer: unlock it and accept USB debugging",
    "offline": "does not answer: plug it in again",
    "no permissions": "may not be opened by this user: see adb's page on udev rules",
}
TIMES = re.compile(r"^\s*(init|first|min|max|avg|average)\s*=\s*([0-9.]+)", re.MULTILINE)


class PhoneFacts(NamedTuple):
    """What a result must be read with."""

    device: str
    soc: str
    android: str
    governor: str


class Phone:
    """One phone. All methods raise UserError if adb fails, with its last line."""

    def __init__(self, serial: str):
        self.serial = serial

    def command(self, *arguments: str) -> List[str]:
        return ["adb", "-s", self.serial, *arguments]

    def shell(self, line: str) -> str:
        """What a command prints on the phone."""
        return run(self.command("shell", line))

    def push_commands(self, files: Sequence[Path]) -> List[List[str]]:
        """What puts the files into FOLDER; the first one becomes executable."""
        pushes = [self.command("push", str(file), f"{FOLDER}/{file.name}") for file in files]
        prepare = self.command("shell", f"mkdir -p {FOLDER}")
        return [prepare, *pushes, self.command("shell", f"chmod 755 {FOLDER}/{shlex.quote(files[0].name)}")]

    def facts(self) -> PhoneFacts:
        def prop(*names: str) -> str:
            return next((value for name in names if (value := self.shell(f"getprop {name}").strip())), "unknown")

        governors = self.shell("cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null; true").split()
        return PhoneFacts(
            device=f"{prop('ro.product.manufacturer')} {prop('ro.product.model')}",
            soc=prop("ro.soc.model", "ro.board.platform", "ro.hardware"),
            android=prop("ro.build.version.release"),
            governor="+".join(sorted(set(governors))) or "unknown",
        )

    def temperature(self) -> float:
        """Degrees Celsius of the hottest CPU sensor, of the battery where none can be read; NaN without either."""
        listing = self.shell(
            "for z in /sys/class/thermal/thermal_zone*; do "
            'echo "$(cat $z/type 2>/dev/null) $(cat $z/temp 2>/dev/null)"; done'
        )
        zones = [line.split() for line in listing.splitlines()]
        cpus = [degrees(zone[1]) for zone in zones if len(zone) == 2 and "cpu" in zone[0].lower()]
        if cpus:
            return max(cpus)
        battery = re.search(r"temperature: (\d+)", self.shell("dumpsys battery"))
        return int(battery.group(1)) / 10 if battery else float("nan")


def degrees(text: str) -> float:
    """A sensor's number, which is in degrees or in thousandths of them."""
    value = float(text)
    return value / 1000 if abs(value) > 200 else value


def attached(wanted: Sequence[str]) -> List[Phone]:
    """The phones with these serial numbers, or all. UserError if there is none, or one of them is not ready."""
    lines = run(["adb", "devices"]).splitlines()
    states = dict(line.split("\t", 1) for line in lines if "\t" in line)
    if not states:
        raise UserError("adb sees no phone: plug one in and switch USB debugging on (adb devices lists it then)")
    for serial in wanted or states:
        if serial not in states:
            raise UserError(f"adb sees no phone {serial}; there are {', '.join(states)}")
        if states[serial].strip() != "device":
            state = next((s for s in STATES if states[serial].startswith(s)), "")
            raise UserError(f"phone {serial} {STATES.get(state, 'is in state ' + states[serial].strip())}")
    return [Phone(serial) for serial in wanted or states]


def run(command: Sequence[str]) -> str:
    """What a command prints. UserError if it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except FileNotFoundError as error:
        raise UserError("adb is not on the PATH; install Android's platform-tools") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"no answer within {TIMEOUT} seconds: {shlex.join(command)}") from error
    output = done.stdout.replace("\r\n", "\n")
    if done.returncode:
        last = [line for line in (output + done.stderr).splitlines() if line.strip()]
        reason = last[-1].strip() if last else f"exit code {done.returncode}"
        raise UserError(f"{shlex.join(command)}: {reason}")
    return output


def parse_times(output: str) -> Dict[str, float]:
    """init, first, min, max and avg milliseconds of benchmark_bin's output. UserError if it timed nothing (it exits
    with 0 when it only prints its help)."""
    times = {("avg" if name == "average" else name): float(value) for name, value in TIMES.findall(output)}
    if "avg" not in times:
        last = [line for line in output.splitlines() if line.strip()]
        raise UserError(f"benchmark_bin printed no times; its last line: {last[-1].strip() if last else '(nothing)'}")
    return times


def lite_version(output: str) -> str:
    found = re.search(r"benchmark_bin version:\s*(\S+)", output)
    return found.group(1) if found else "unknown"
