"""Pictures of an evaluation, as PNG bytes: precision over recall, confusions, TIDE's errors, positives by size.

R recall places, K classes.
"""

from __future__ import annotations

import io
from typing import Any, Dict, Mapping, Sequence, Tuple

import numpy as np

SHOWN_CLASSES = 20


def figure(columns: int = 1, width: float = 6.0, height: float = 4.0) -> Tuple[Any, Any]:
    """A figure and its axes [columns], drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, columns, figsize=(width * columns, height), layout="constrained", squeeze=False)
    return drawn, axes[0]


def png(drawn: Any) -> bytes:
    """A figure's bytes; it is closed."""
    from matplotlib import pyplot

    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=110)
    pyplot.close(drawn)
    return file.getvalue()


def precision_recall_plot(
    recall: np.ndarray, by_iou: Mapping[str, np.ndarray], by_class: Mapping[str, np.ndarray]
) -> bytes:
    """Two panels: the mean over classes by IoU, and each class (the first `SHOWN_CLASSES`) at IoU 0.5."""
    drawn, (left, right) = figure(2)
    for axes, curves, title in (
        (left, by_iou, "mean over classes"),
        (right, dict(list(by_class.items())[:SHOWN_CLASSES]), "by class, IoU .50"),
    ):
        for name, values in curves.items():
            axes.plot(recall, values, label=f"{name}: {np.nanmean(values):.3f}", linewidth=1.4)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=title)
        if curves:
            axes.legend(fontsize=7 if len(curves) > 8 else 9)
        axes.grid(alpha=0.3)
    return png(drawn)


def confusion_plot(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """The matrix [K + 1, K + 1], rows in shares of their sums; with few classes each cell has its count."""
    labels = [*names, "nothing"]
    side = min(4 + 0.35 * len(labels), 18)
    drawn, (axes,) = figure(1, side + 1, side)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="found as (last: missed)", ylabel="is (last: nothing is there)")
    if len(labels) <= SHOWN_CLASSES:
        for (y, x), number in np.ndenumerate(matrix):
            if number:
                axes.text(x, y, number, ha="center", va="center", color="white" if shares[y, x] > 0.5 else "black")
    return png(drawn)


def tide_plot(main: Dict[str, float], special: Dict[str, float]) -> bytes:
    """YOLOF's figure 7: the errors' shares as a pie, what each costs as bars, and false positives and negatives."""
    drawn, (pie, bars, sums) = figure(3, 3.6, 3.4)
    names = list(main)
    colours = [f"C{i}" for i in range(len(names))]
    if sum(main.values()) > 0:
        pie.pie(list(main.values()), labels=names, colors=colours, startangle=90, textprops={"fontsize": 8})
    pie.set_title("share of the six")
    bars.barh(names[::-1], [main[name] for name in names[::-1]], color=colours[::-1])
    bars.set(title="AP50 lost to each")
    sums.bar(list(special), list(special.values()), color=["C7", "C8"], width=0.5)
    sums.set(title="AP50 lost to all of them")
    for axes in (bars, sums):
        axes.grid(alpha=0.3)
    return png(drawn)


def positives_plot(sizes: Sequence[str], counts: Mapping[str, Sequence[float]]) -> bytes:
    """YOLOF's figure 6: for each matcher the share of all positive anchors that boxes of each size get, and how many
    one box gets; `counts` name -> per box of each size, then shares of each size."""
    drawn, (left, right) = figure(2)
    width = 0.8 / max(len(counts), 1)
    for index, (name, values) in enumerate(counts.items()):
        places = np.arange(len(sizes)) + (index - (len(counts) - 1) / 2) * width
        left.bar(places, values[: len(sizes)], width, label=name)
        right.bar(places, values[len(sizes) :], width, label=name)
    left.set(ylabel="positive anchors a box", title="a box gets")
    right.set(ylabel="share of all positive anchors", title="all boxes of a size get", ylim=(0, 1))
    for axes in (left, right):
        axes.set_xticks(range(len(sizes)), sizes)
        axes.grid(axis="y", alpha=0.3)
    left.legend(fontsize=8)
    return png(drawn)
