"""How a learning rate goes in a run of some length, and whether it comes to its end there, in words.

Epochs and updates are counted from 1, as in the log.

s updates per epoch
"""

from __future__ import annotations

from typing import Iterator, List, Optional, Union

from ppdet_repro.optimizer.schedules import CosineDecay, CyclicCosineDecay, Epochs, LearningRate, PiecewiseDecay, Warmup

UNKNOWN = 10**6  # updates per epoch where they are not known: a warmup in updates is then short


def course(lr: LearningRate, epochs: int, steps: Optional[int] = None) -> str:
    """The rate at the start, after the warmup, at each milestone, and at the end, on one line.

    `steps` are the updates per epoch, or None if they are not known.
    """
    s = steps or UNKNOWN
    total = epochs * s
    warmup = lr.warmup.length(s) if lr.warmup else 0
    parts = [f"{lr.rate(0, s):.3g} at the start"]
    if lr.warmup and warmup < total:
        parts.append(f"{lr.rate(warmup, s):.3g} from {moment(lr.warmup, warmup)}")
    if warmup < total:
        parts += decay_course(lr, epochs, s, warmup)
    updates = "" if steps is None else f", {total:,} updates"
    return f"learning rate: {', '.join(parts)}, {lr.rate(total - 1, s):.3g} at the end ({counted(epochs)}{updates})"


def decay_course(lr: LearningRate, epochs: int, s: int, warmup: int) -> List[str]:
    """What a decay does after a warmup of that many updates."""
    decay = lr.decay
    if isinstance(decay, PiecewiseDecay):
        reached = [m for m in decay.milestones if warmup < m * s < epochs * s]
        return [f"{lr.rate(first_update(m, s), s):.3g} from {place(m)}" for m in reached]
    if isinstance(decay, CyclicCosineDecay):
        lowest = lr.base_lr * decay.min_lr_ratio
        return [f"along a cosine to {lowest:.3g} in every {counted(decay.cycle_epochs)}"]
    end = decay.max_epochs - decay.last_plateau_epochs
    return [
        "along a cosine" if end >= epochs else f"along a cosine to {lr.rate(epochs * s - 1, s):.3g} in epoch {end:g}"
    ]


def counted(epochs: Epochs) -> str:
    """A number of epochs in words."""
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def moment(warmup: Warmup, length: int) -> str:
    """When a warmup ends."""
    return f"update {length + 1:,}" if warmup.epochs is None else place(warmup.epochs)


def place(epochs: Epochs) -> str:
    """The time after a number of epochs."""
    return f"epoch {epochs + 1:g}" if epochs == int(epochs) else f"epoch {int(epochs) + 1} ({epochs % 1:.0%} of it)"


def first_update(epochs: Epochs, steps: int) -> int:
    """The first update, from 0, that is not before a number of epochs."""
    return -int(-epochs * steps // 1)


def misfits(lr: LearningRate, epochs: int, steps: Optional[int] = None, written_for: Optional[int] = None) -> List[str]:
    """Why a learning rate does not fit a run: for each reason, the class, the key and its value, and what follows.

    Empty if the rate falls to its end within the run, and is not written for fewer epochs (`written_for`). Without the
    updates per epoch, `steps`, only what is counted in epochs is considered.
    """
    s = steps or UNKNOWN
    warmup = lr.warmup.length(s) if lr.warmup else 0
    if lr.warmup and warmup >= epochs * s:
        last = f"the rate ends at {lr.rate(epochs * s - 1, s):.3g} and never reaches {lr.base_lr:.3g}"
        return [f"{key_of(lr.warmup)} is a warmup of {warmup:,} updates, as long as the run or longer, so {last}"]
    decay = lr.decay
    if isinstance(decay, PiecewiseDecay):
        return list(piecewise_misfits(lr, decay, epochs, s, warmup, written_for))
    if isinstance(decay, CosineDecay):
        return list(cosine_misfits(lr, decay, epochs, s, warmup))
    return list(cyclic_misfits(lr, decay, epochs, s))


def key_of(warmup: Warmup) -> str:
    """The class, the key and the value that define the length of a warmup."""
    value: Union[str, Epochs] = f"steps {warmup.steps:,}" if warmup.epochs is None else f"epochs {warmup.epochs:g}"
    return f"{type(warmup).__name__}.{value}"


def piecewise_misfits(
    lr: LearningRate, decay: PiecewiseDecay, epochs: int, s: int, warmup: int, written_for: Optional[int]
) -> Iterator[str]:
    """Milestones that the run does not reach or reaches within the warmup, and epochs after the schedule's end."""
    total, name = epochs * s, f"PiecewiseDecay.milestones {decay.milestones}"
    if not decay.milestones:
        return
    late = [milestone for milestone in decay.milestones if first_update(milestone, s) >= total]
    end = f"{lr.rate(max(first_update(decay.milestones[-1], s), warmup), s):.3g}"
    if late:
        which = (
            "are" if late == decay.milestones else f"has {', '.join(f'{milestone:g}' for milestone in late)}, which is"
        )
        yield f"{name} {which} not reached, so the rate ends at {lr.rate(total - 1, s):.3g} instead of {end}"
        return
    early = first_update(decay.milestones[0], s)
    if early < warmup and lr.warmup:
        yield f"{name} start at update {early + 1:,}, within the warmup of {warmup:,} ({key_of(lr.warmup)})"
    after = epochs - decay.milestones[-1]
    if (written_for is not None and epochs > written_for) or 2 * after > epochs:
        yield f"{name} end after {counted(decay.milestones[-1])}, so the other {after:g} train at {end}"


def cosine_misfits(lr: LearningRate, decay: CosineDecay, epochs: int, s: int, warmup: int) -> Iterator[str]:
    """A wave that is no longer than the warmup, that the run does not end, or that ends long before the run."""
    end, name = decay.max_epochs - decay.last_plateau_epochs, f"CosineDecay.max_epochs {decay.max_epochs}"
    lowest = f"{lr.base_lr * decay.min_lr_ratio:.3g}"
    if warmup >= end * s and lr.warmup:
        yield f"{name} ends within the warmup ({key_of(lr.warmup)}), so the rate stays at {lr.base_lr:.3g}"
    elif epochs < end:
        yield f"{name} is longer than the run, so the rate ends at {lr.rate(epochs * s - 1, s):.3g} instead of {lowest}"
    elif epochs > decay.max_epochs:
        yield f"{name} is shorter than the run, so the other {epochs - decay.max_epochs} train at {lowest}"


def cyclic_misfits(lr: LearningRate, decay: CyclicCosineDecay, epochs: int, s: int) -> Iterator[str]:
    """A run that ends within a cycle."""
    if epochs % decay.cycle_epochs:
        rates = f"{lr.rate(epochs * s - 1, s):.3g} instead of {lr.base_lr * decay.min_lr_ratio:.3g}"
        yield f"CyclicCosineDecay.cycle_epochs {decay.cycle_epochs} does not divide the run, which ends at {rates}"
