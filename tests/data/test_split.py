"""Which pictures are for the evaluation: a fifth of each class, the same ones whatever their order."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ppdet_repro.data.source.split import chosen_for_evaluation


def random_set(seed=0, number=400):
    rng = np.random.default_rng(seed)
    rates = {"a": 0.7, "b": 0.2, "c": 0.05, "d": 0.02}
    return [{name for name, rate in rates.items() if rng.random() < rate} for _ in range(number)]


def test_every_class_has_its_share():
    classes = random_set()
    chosen = chosen_for_evaluation(classes, [f"{i}.jpg" for i in range(400)])
    total = Counter(name for names in classes for name in names)
    there = Counter(name for names, flag in zip(classes, chosen) if flag for name in names)
    for name, number in total.items():
        assert abs(there[name] - 0.2 * number) <= max(1, 0.03 * number), name
    empty = [flag for names, flag in zip(classes, chosen) if not names]
    assert sum(empty) == round(0.2 * len(empty))


def test_neither_the_order_nor_other_pictures_of_a_class_matter_much():
    classes, keys = random_set(1), [f"{i}.jpg" for i in range(400)]
    chosen = dict(zip(keys, chosen_for_evaluation(classes, keys)))
    order = np.random.default_rng(2).permutation(400)
    again = chosen_for_evaluation([classes[i] for i in order], [keys[i] for i in order])
    assert chosen == dict(zip((keys[i] for i in order), again))


def test_rare_classes_come_first():
    """Each of 20 rare classes is in 5 pictures, which all have the common one, too: a fifth is exactly one."""
    classes = [{"common", f"rare {i // 5}"} for i in range(100)] + [{"common"}] * 100
    chosen = chosen_for_evaluation(classes, [str(i) for i in range(200)])
    there = Counter(name for names, flag in zip(classes, chosen) if flag for name in names)
    assert there == {"common": 40, **{f"rare {i}": 1 for i in range(20)}}


def test_rare_classes_and_few_pictures():
    assert sum(chosen_for_evaluation([{"a"}] * 3, ["1", "2", "3"])) == 1  # of three pictures one
    assert sum(chosen_for_evaluation([{"a"}] * 2, ["1", "2"])) == 1  # an evaluation needs a picture
    assert chosen_for_evaluation([{"a"}], ["1"]) == [False]
    # "rare" is in two pictures, which are both trained on; of the ten others a fifth is chosen
    chosen = chosen_for_evaluation([{"rare", "a"}] * 2 + [{"a"}] * 8, list("abcdefghij"))
    assert chosen[:2] == [False, False] and sum(chosen) == 2
