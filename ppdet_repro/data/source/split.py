"""Divides pictures into those to train on and those to evaluate on, so that both have all classes if possible."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

SHARE = 0.2  # of the pictures of each class, to evaluate on
AT_LEAST = 3  # pictures of a class, of which one is for the evaluation


def chosen_for_evaluation(classes: Sequence[Collection[str]], keys: Sequence[str], share: float = SHARE) -> list[bool]:
    """Choose the pictures to evaluate on. Returns a flag for each.

    The classes are gone through from the rarest on, and each gets its share of pictures; pictures without objects come
    last. Of a class in one or two pictures, all are trained on. Among the pictures of a class, the hash of their keys
    decides, and so neither their order nor a random number. Source: Sechidis et al., "On the stratification of
    multi-label data", ECML 2011, for the order of the classes.

    Args:
        classes: The class names in each picture, I of them.
        keys: I texts that identify the pictures, such as their names.
        share: The share of pictures to evaluate on.
    """
    order = sorted(range(len(keys)), key=lambda i: (hashlib.sha256(keys[i].encode("utf-8", "replace")).digest(), i))
    number = Counter(name for names in classes for name in set(names))
    chosen = [False] * len(keys)
    open_ = set(order)
    for name in sorted(number, key=lambda name: (number[name], name)):
        wanted = max(1, round(share * number[name])) if number[name] >= AT_LEAST else 0
        wanted -= sum(chosen[i] and name in classes[i] for i in order)
        _choose([i for i in order if i in open_ and name in classes[i]], wanted, chosen, open_)
    _choose([i for i in order if i in open_], round(share * len(open_)), chosen, open_)
    if not any(chosen) and len(order) > 1:
        chosen[order[0]] = True
    return chosen


def _choose(pictures: list[int], wanted: int, chosen: list[bool], open_: set[int]) -> None:
    """Choose the first of these pictures for the evaluation, and the others for training."""
    for i in pictures[: max(0, wanted)]:
        chosen[i] = True
    open_.difference_update(pictures)
