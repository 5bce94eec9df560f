"""Before any test imports Paddle, the package prepares the process (threads, MKL)."""

import ppdet_repro  # noqa: F401
