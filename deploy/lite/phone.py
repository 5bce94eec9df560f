"""Android phones: their properties, and how to run benchmark_bin on them with adb."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from ppdet_repro.utils.errors import UserError

FOLDER = "/data/local/tmp/benchmark"
TIMEOUT = 1800  # seconds per command; 600 repeats of a slow model take minutes
STATES = {
    "unauthorized": "has not authorized this computer: unlock the phone and accept USB debugging",
    "offline": "does not respond: plug it in again",
    "no permissions": "cannot be accessed by this user: see adb's documentation of udev rules",
}
TIMES = re.compile(r"^\s*(init|first|min|max|avg|average)\s*=\s*([0-9.]+)", re.MULTILINE)


class PhoneFacts(NamedTuple):
    """The properties of a phone that affect its results."""

    device: str
    soc: str
    android: str
    governor: str


class Phone:
    """A phone. All methods raise UserError, with the last line of adb's output, if adb fails."""

    def __init__(self, serial: str):
        self.serial = serial

    def command(self, *arguments: str) -> List[str]:
        return ["adb", "-s", self.serial, *arguments]

    def shell(self, line: str) -> str:
        return run(self.command("shell", line))

    def push_commands(self, files: Sequence[Path]) -> List[List[str]]:
        """The commands that copy the files to FOLDER and make the first one executable."""
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
        """The temperature in degrees Celsius: of the hottest CPU sensor, otherwise of the battery, otherwise NaN."""
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
    """Degrees from the number of a sensor, which is in degrees or in thousandths of a degree."""
    value = float(text)
    return value / 1000 if abs(value) > 200 else value


def attached(wanted: Sequence[str]) -> List[Phone]:
    """The phones with these serial numbers, or all phones. UserError if there is none, or one is not ready."""
    lines = run(["adb", "devices"]).splitlines()
    states = dict(line.split("\t", 1) for line in lines if "\t" in line)
    if not states:
        raise UserError("adb finds no phone: plug one in and enable USB debugging, so that `adb devices` lists it")
    for serial in wanted or states:
        if serial not in states:
            raise UserError(f"adb finds no phone {serial}; it finds {', '.join(states)}")
        if states[serial].strip() != "device":
            state = next((s for s in STATES if states[serial].startswith(s)), "")
            raise UserError(f"phone {serial} {STATES.get(state, 'is in state ' + states[serial].strip())}")
    return [Phone(serial) for serial in wanted or states]


def run(command: Sequence[str]) -> str:
    """Run a command and return its output. UserError if it is not installed, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except FileNotFoundError as error:
        raise UserError("adb is not on the PATH; install Android's platform-tools") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"no answer within {TIMEOUT} seconds: {shlex.join(command)}") from error
    output = done.stdout.replace("\r\n", "\n")
    if done.returncode:
        reason = last_line(output + done.stderr) or f"exit code {done.returncode}"
        raise UserError(f"{shlex.join(command)}: {reason}")
    return output


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return text.rstrip().rpartition("\n")[2].strip()


def parse_times(output: str) -> Dict[str, float]:
    """The milliseconds init, first, min, max and avg that benchmark_bin printed. UserError if there are none: it also
    exits with code 0 when it only prints its help."""
    times = {("avg" if name == "average" else name): float(value) for name, value in TIMES.findall(output)}
    if "avg" not in times:
        raise UserError(f"benchmark_bin printed no times; its last line: {last_line(output) or '(nothing)'}")
    return times


def lite_version(output: str) -> str:
    """The version of Paddle-Lite from the output of benchmark_bin."""
    found = re.search(r"benchmark_bin version:\s*(\S+)", output)
    return found.group(1) if found else "unknown"
