"""A random choice between two lists of transforms."""

from __future__ import annotations

from typing import Any

from ppdet_repro.core.registry import Part, register
from ppdet_repro.data.transform.base import BatchTransform, Compose, Context, Sample
from ppdet_repro.utils.errors import UserError


@register
class RandomSelect:
    """Applies the transforms of one of two lists: those of `transforms1` with probability `p`, else the others.

    Both lists may be empty. Transforms of a whole batch are not allowed in them.

    Args:
        transforms1, transforms2: the two lists
        p: probability of the first list
    """

    def __init__(self, transforms1: list[Part[Any]], transforms2: list[Part[Any]], p: float = 0.5):
        for transform in (*transforms1, *transforms2):
            if isinstance(transform, BatchTransform):
                raise UserError(f"RandomSelect: {type(transform).__name__} is a batch transform; put it outside")
        self.first, self.second, self.p = Compose(transforms1), Compose(transforms2), p

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        return (self.first if ctx.rng.random() < self.p else self.second)(sample, ctx)
