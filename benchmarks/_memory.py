"""The memory of a process that measures."""

import re
from pathlib import Path


def peak_memory() -> float:
    """The most memory that this process has had, in MiB, without that of the process which started it.

    `getrusage` counts that, too: Linux keeps the largest size over the start of another program.
    """
    status = Path("/proc/self/status")  # of Linux
    text = status.read_text() if status.exists() else ""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")
