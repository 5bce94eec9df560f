"""Looks for pictures that are not where a dataset says, so that the error can tell where they are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

MOST_FILES, MOST_NAMES = 20_000, 1000


def fix_of_missing(anno_file: str, names: Sequence[str], entry: str = "entry") -> str:
    """Return how to mend that pictures with these relative names are missing: by the folder that contains most of them,
    if it is near the annotation file."""
    fix = f"set dataset_dir and image_dir, or remove the {entry}"
    here = os.path.dirname(os.path.abspath(anno_file))
    found: Counter[str] = Counter()
    wanted = [os.path.normpath(name.replace("\\", "/")) for name in names[:MOST_NAMES]]
    by_base: dict[str, list[str]] = {}
    for name in wanted:
        by_base.setdefault(os.path.basename(name), []).append(name)
    for start in dict.fromkeys((here, os.path.dirname(here))):
        seen = 0
        for folder, folders, files in os.walk(start):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            seen += len(files) + 1
            if seen > MOST_FILES:
                break
            for base in files:
                for name in by_base.get(base, []):
                    path = os.path.join(folder, base)
                    if path.endswith(os.sep + name):
                        found[path[: -len(name) - 1]] += 1
        if found:
            [(root, number)] = found.most_common(1)
            shown = os.path.relpath(root)
            shown = root if shown.startswith(os.pardir) else shown
            return f"{number:,} of them {'is' if number == 1 else 'are'} in {shown}: give --image_dir {shown}, or {fix}"
    return fix
