"""Detection on slices of large images by a detector that is not exported."""

from __future__ import annotations

from typing import Iterator, Mapping, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.data.transform.base import AnyTransform
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine.models import mode
from ppdet_repro.metrics.detections import ImageDetections
from ppdet_repro.runtime.pipeline import Pipeline
from ppdet_repro.runtime.slicing import SlicedPipeline, SliceOptions


class EagerEngine:
    """A detector as an engine of a `Pipeline`."""

    def __init__(self, model: nn.Layer):
        self.model = model

    def run(self, inputs: Mapping[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """See `runtime.pipeline.Engine`."""
        with mode(self.model, training=False), paddle.no_grad():
            found = self.model({name: paddle.to_tensor(value) for name, value in inputs.items()})
        return found["bbox"].numpy(), found["bbox_num"].numpy()


def sliced_pipeline(
    model: nn.Layer, transforms: Sequence[AnyTransform], options: SliceOptions, batch_size: int
) -> SlicedPipeline:
    """The pipeline that cuts images into slices, detects on them, `batch_size` at a time, and combines the boxes.

    `transforms` are the `preprocess` of a reader. Boxes are in pixels of the whole image.
    """
    return SlicedPipeline(Pipeline(Preprocess(transforms), EagerEngine(model)), options, batch_size)


def detect_sliced(pipeline: SlicedPipeline, files: Sequence[str], ids: Sequence[int]) -> Iterator[ImageDetections]:
    """Yield the detections on each image file. UserError if a file is not an image."""
    for im_id, (found,) in zip(ids, pipeline.stream([file] for file in files)):
        yield ImageDetections(im_id, found.rows)
