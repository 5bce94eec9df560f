"""The one exception for a user's mistake, and how a command reports it."""

from __future__ import annotations

import sys
from typing import Callable, Optional


class UserError(Exception):
    """Something the user can fix: says what is wrong, where, and how to fix it.

    Commands print it as one line and exit with code 2 (see `run_command`);
    library callers catch it like any exception.
    """


def run_command(main: Callable[[], Optional[int]]) -> None:
    """Run a command's `main` and exit: 0 or its return value, 2 for a `UserError`
    (one line on stderr, no traceback), 130 for Ctrl-C."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        sys.stdout = None
        code = 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
