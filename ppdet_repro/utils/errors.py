"""The exception for a user's mistake, and how commands report it."""

from __future__ import annotations

import sys
from typing import Callable, Optional

from ppdet_repro.utils.printable import printable


class UserError(Exception):
    """A mistake that the user can fix. The message says what is wrong, where, and how to fix it.

    Commands print the message without a traceback and exit with code 2 (see `run_command`). A component's constructor
    raises it for values that it refuses; the config system then adds the file and line. Any other exception, such as a
    `TypeError` or a `ValueError`, is a bug of the program and keeps its traceback.
    """


def run_command(main: Callable[[], Optional[int]]) -> None:
    """Run a command's `main` and exit with its return value (None is 0).

    A `UserError` is printed on stderr without a traceback and exits with code 2; Ctrl-C exits with code 130.
    """
    try:
        code = main()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the program that reads our output, such as `head`, has ended
        sys.stdout = None
        code = 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
