"""The sizes of the boxes of a COCO file, relative to their images: I images with boxes.

The numbers are those of PaddleDetection's tools/box_distribution.py for a file that has the boxes of an image one after
another; it takes other files for more images than they have.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppdet_repro.data.source.coco_file import read_coco
from ppdet_repro.data.source.findings import Findings
from ppdet_repro.data.transform.decode import decode_image
from ppdet_repro.utils.analysis_plots import figure, png
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.visualize import write_image


class Distribution(NamedTuple):
    """Relative sizes of boxes."""

    widths: np.ndarray  # [I] the mean width of an image's boxes over the image's width
    heights: np.ndarray  # [I]
    image_width: float  # mean of the images in pixels
    image_height: float
    annotations: int

    def range_end(self, eval_size: int, stride: int) -> int:
        """The upper end of `reg_range`, in strides, that covers 95 % of the images, for an input of `eval_size` pixels.

        Images with large boxes count with a part of them: a half from 0.2 on, a quarter from 0.4 on. PaddleDetection
        suggests this for PP-YOLOE+ on small objects.
        """
        ratios = np.concatenate([self.heights, self.widths])
        parts = np.sort(np.where(ratios < 0.2, ratios, np.where(ratios < 0.4, ratios / 2, ratios / 4)))
        return round(float(parts[int(0.95 * len(parts))]) * eval_size / stride) + 1

    def text(self, eval_size: int, stride: int) -> str:
        """The report, in PaddleDetection's words."""
        return "\n".join(
            [
                f"Suggested reg_range[1] is {self.range_end(eval_size, stride)}",
                f"Mean of all img_w is {self.image_width}",
                f"Mean of all img_h is {self.image_height}",
                f"Median of ratio_w is {np.median(self.widths)}",
                f"Median of ratio_h is {np.median(self.heights)}",
                f"all_img with box: {len(self.widths)}",
                f"all_ann: {self.annotations}",
            ]
        )

    def plot(self, path: Path) -> None:
        """Write histograms of the relative widths and heights as an image file. UserError if it cannot be written."""
        drawing, axes = figure(2)
        for axis, values, name in zip(axes, (self.widths, self.heights), ("width", "height")):
            axis.hist(values, bins=max(1, int((values.max() - values.min()) * 100)))
            axis.set(xlabel=f"mean {name} of boxes / {name} of the image", ylabel="images")
        write_image(path, decode_image(png(drawing)))


def read_distribution(json_file: str) -> Distribution:
    """Measure the boxes of a COCO file, without crowd regions. UserError if there are none, or sizes are missing."""
    file = read_coco(json_file, Findings(prefix=f"{json_file}: "))
    a = file.annotations
    kept = ~a.crowd
    if not kept.any():
        raise UserError(f"{json_file} has no boxes")
    used, owner = np.unique(a.image_of[kept], return_inverse=True)
    sizes = file.images.sizes[used]  # [I, 2] height, width
    if not (sizes > 0).all():
        raise UserError(
            f"{json_file}: {file.image_name(int(used[~(sizes > 0).all(axis=1)][0]))} has no width and height"
        )
    owner = owner.reshape(-1)
    counts = np.bincount(owner)
    widths, heights = (np.bincount(owner, a.xywh[kept, side]) / counts for side in (2, 3))
    means = sizes.mean(axis=0)
    return Distribution(widths / sizes[:, 1], heights / sizes[:, 0], float(means[1]), float(means[0]), len(a.entries))
