"""Read damaged and hostile files, made at random, and report whatever is not a value or one clear error.

tools/fuzz.py --what checkpoints --cases 20000
tools/fuzz.py --what configs --cases 100 --seed 7

Each case is read in a process of its own, whose time, memory and effects are watched; see tests/fuzzing/runner.py.
`requests` are sent to a server in a process; see tests/fuzzing/requests.py. The exit code is 1 if a case fails. A
failing case is printed with its files made as small as the failure allows.
"""

import argparse
import sys

import _checkout

from ppdet_repro.utils.cli import at_least_one

WHAT = ("checkpoints", "configs", "exports", "lists", "annotations", "pictures", "requests")
SHOWN = 600  # bytes of a file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=WHAT, nargs="+", default=WHAT, help="kinds of files (default: all)")
    parser.add_argument(
        "--cases", type=at_least_one, default=1000, metavar="N", help="cases of each kind (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same cases (default: 0)")
    arguments = parser.parse_args()

    from tests.fuzzing.runner import fuzz

    failures = 0
    for what in arguments.what:
        for failure in fuzz(what, arguments.cases, arguments.seed):
            failures += 1
            print(f"{what} {failure.number}: {failure.result.outcome}: {failure.result.detail}", flush=True)
            for name, content in failure.files.items():
                print(f"  {name} ({len(content)} bytes): {content[:SHOWN]!r}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
