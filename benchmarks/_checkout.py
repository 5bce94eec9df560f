"""Importing this puts the checkout first on the module path: the scripts beside it run without installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
