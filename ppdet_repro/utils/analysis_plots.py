"""Plots of an evaluation as PNG files: precision-recall curves, confusion matrix, TIDE errors, positives by size."""

from __future__ import annotations

import io
from typing import Any, Dict, Mapping, Sequence, Tuple

import numpy as np

SHOWN_CLASSES = 20


def figure(columns: int = 1, width: float = 6.0, height: float = 4.0) -> Tuple[Any, Any]:
    """A new figure that needs no display, and its axes [columns], each `width` x `height` inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    plot, axes = pyplot.subplots(1, columns, figsize=(width * columns, height), layout="constrained", squeeze=False)
    return plot, axes[0]


def png(plot: Any) -> bytes:
    """The bytes of a PNG file with a figure, which is closed."""
    from matplotlib import pyplot

    file = io.BytesIO()
    plot.savefig(file, format="png", dpi=110)
    pyplot.close(plot)
    return file.getvalue()


def precision_recall_plot(
    recall: np.ndarray, by_iou: Mapping[str, np.ndarray], by_class: Mapping[str, np.ndarray]
) -> bytes:
    """Precisions [R] at recall thresholds [R]: on the left the mean over all classes per IoU, by the IoU's name.

    On the right are those of the first `SHOWN_CLASSES` classes at IoU 0.5, by class name.
    """
    plot, (left, right) = figure(2)
    shown = dict(list(by_class.items())[:SHOWN_CLASSES])
    for axes, curves, title in (left, by_iou, "mean over all classes"), (right, shown, "per class, IoU .50"):
        for name, values in curves.items():
            axes.plot(recall, values, label=f"{name}: {np.nanmean(values):.3f}", linewidth=1.4)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=title)
        if curves:
            axes.legend(fontsize=7 if len(curves) > 8 else 9)
        axes.grid(alpha=0.3)
    return png(plot)


def confusion_plot(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """A confusion matrix [classes + 1, classes + 1] of counts; the last row and column are the background.

    Colors show the share of a cell in its row. With up to `SHOWN_CLASSES` classes, cells also show their counts.
    """
    labels = [*names, "background"]
    side = min(4 + 0.35 * len(labels), 18)
    plot, (axes,) = figure(1, side + 1, side)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted class (background: missed)", ylabel="true class (background: false positive)")
    if len(labels) <= SHOWN_CLASSES:
        for (y, x), number in np.ndenumerate(matrix):
            if number:
                axes.text(x, y, number, ha="center", va="center", color="white" if shares[y, x] > 0.5 else "black")
    return png(plot)


def tide_plot(main: Dict[str, float], special: Dict[str, float]) -> bytes:
    """TIDE errors as in YOLOF's figure 7.

    `main` has the AP50 that each of the six main kinds of errors costs, shown as a pie and as bars; `special` that of
    all false positives and all false negatives, shown as bars.
    """
    plot, (pie, bars, sums) = figure(3, 3.6, 3.4)
    names = list(main)
    colors = [f"C{i}" for i in range(len(names))]
    if sum(main.values()) > 0:
        pie.pie(list(main.values()), labels=names, colors=colors, startangle=90, textprops={"fontsize": 8})
    pie.set_title("shares of the main errors")
    bars.barh(names[::-1], [main[name] for name in names[::-1]], color=colors[::-1])
    bars.set(title="AP50 lost per kind")
    sums.bar(list(special), list(special.values()), color=["C7", "C8"], width=0.5)
    sums.set(title="AP50 lost to all FP, all FN")
    for axes in (bars, sums):
        axes.grid(alpha=0.3)
    return png(plot)


def positives_plot(sizes: Sequence[str], counts: Mapping[str, Sequence[float]]) -> bytes:
    """How matchers distribute positive anchors over boxes of different sizes, as in YOLOF's figure 6.

    `counts` has, by the name of the matcher, the positive anchors per box for each of the named `sizes`, then the share
    of all positive anchors for each size.
    """
    plot, (left, right) = figure(2)
    width = 0.8 / max(len(counts), 1)
    for index, (name, values) in enumerate(counts.items()):
        positions = np.arange(len(sizes)) + (index - (len(counts) - 1) / 2) * width
        left.bar(positions, values[: len(sizes)], width, label=name)
        right.bar(positions, values[len(sizes) :], width, label=name)
    left.set(ylabel="positive anchors per box", title="per box")
    right.set(ylabel="share of all positive anchors", title="all boxes of a size", ylim=(0, 1))
    for axes in (left, right):
        axes.set_xticks(range(len(sizes)), sizes)
        axes.grid(axis="y", alpha=0.3)
    left.legend(fontsize=8)
    return png(plot)
