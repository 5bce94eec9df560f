"""The detections on one image, as `Detector.predict` returns them. N boxes."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np

from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.runtime.pipeline import read
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.visualize import draw_boxes, write_image


@dataclass(frozen=True, eq=False)
class Result:
    """The detections on one image, in order of descending score.

    Example:
        >>> import numpy as np
        >>> from ppdet_repro import Result
        >>> rows = np.float32([[1, 0.75, 10, 20, 50, 60], [0, 0.5, 30, 30, 40, 50]])  # class, score, x1, y1, x2, y2
        >>> result = Result(rows, ["cat", "dog"], [17, 18], np.zeros([100, 100, 3], np.uint8), "image_0.jpg")
        >>> result
        Result(image_0.jpg: 1 cat, 1 dog)
        >>> result.boxes.tolist()
        [[10.0, 20.0, 50.0, 60.0], [30.0, 30.0, 40.0, 50.0]]
        >>> result.scores.tolist(), result.classes.tolist(), result.names
        ([0.75, 0.5], [1, 0], ['dog', 'cat'])
    """

    rows: np.ndarray  # [N, 6] float32: class, score, x1, y1, x2, y2
    class_names: Sequence[str]  # of all classes of the model
    category_ids: Sequence[int]  # the id of each class in COCO's files
    source: Union[str, np.ndarray]  # the image: the path of its file, or RGB [H, W, 3] uint8
    name: str  # the file's path below the folder of all files, or image_NUMBER.jpg

    @property
    def boxes(self) -> np.ndarray:
        """The boxes [N, 4] float32: x1, y1, x2, y2 in pixels of the image."""
        return self.rows[:, 2:]

    @property
    def scores(self) -> np.ndarray:
        """The scores [N] float32, from 0 to 1."""
        return self.rows[:, 1]

    @property
    def classes(self) -> np.ndarray:
        """The numbers [N] int64 of the classes, from 0."""
        return self.rows[:, 0].astype(np.int64)

    @property
    def names(self) -> List[str]:
        """The names of the N boxes' classes; `class 7` for a class without a name."""
        known = len(self.class_names)
        return [self.class_names[label] if label < known else f"class {label}" for label in self.classes.tolist()]

    @property
    def path(self) -> Optional[str]:
        """The file of the image; None for an array."""
        return self.source if isinstance(self.source, str) else None

    @property
    def image(self) -> np.ndarray:
        """The image, RGB [H, W, 3] uint8. A file is read again each time. UserError: it is gone."""
        return read(self.source)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {name}" for name, count in sorted(Counter(self.names).items()))
        return f"Result({self.name}: {found or 'nothing'})"

    def draw(self) -> np.ndarray:
        """A copy of the image with all boxes, RGB [H, W, 3] uint8.

        Example:
            >>> import numpy as np
            >>> from ppdet_repro import Result
            >>> image = np.zeros([64, 64, 3], np.uint8)
            >>> Result(np.float32([[0, 0.9, 8, 8, 40, 56]]), ["cat"], [1], image, "image_0.jpg").draw().shape
            (64, 64, 3)
        """
        return draw_boxes(self.image, self.boxes, self.classes, self.scores, list(self.class_names))

    def save(self, path: Union[str, Path]) -> Path:
        """Write a copy of the image with all boxes to a file or, if `path` has no suffix, to `path`/`name`.

        Returns the file's path. UserError: it would replace the image itself, or cannot be written.

        Example:
            >>> import numpy as np
            >>> from ppdet_repro import Result
            >>> image = np.zeros([64, 64, 3], np.uint8)
            >>> result = Result(np.float32([[0, 0.9, 8, 8, 40, 56]]), ["cat"], [1], image, "image_0.jpg")
            >>> result.save("drawn").as_posix(), result.save("one.png").as_posix()
            ('drawn/image_0.jpg', 'one.png')
        """
        target = Path(path)
        if not target.suffix or target.is_dir():
            target /= self.name
        if self.path is not None and os.path.realpath(target) == os.path.realpath(self.path):
            raise UserError(f"{target}: the result would replace the image itself; save it to another file")
        return write_image(target, self.draw())

    def to_coco(self, image_id: int = 0) -> List[Dict[str, Any]]:
        """The rows of a COCO result file: image_id, category_id, bbox [x, y, width, height], score.

        Example:
            >>> import numpy as np
            >>> from ppdet_repro import Result
            >>> image = np.zeros([64, 64, 3], np.uint8)
            >>> Result(np.float32([[1, 0.5, 8, 8, 40, 56]]), ["cat", "dog"], [17, 18], image, "image_0.jpg").to_coco(7)
            [{'image_id': 7, 'category_id': 18, 'bbox': [8.0, 8.0, 32.0, 48.0], 'score': 0.5}]
        """
        return coco_rows([ImageDetections(image_id, self.rows)], self.category_ids)

    def to_supervision(self) -> Any:
        """The boxes as `supervision.Detections`, with the classes' names in `data["class_name"]`.

        UserError: the package supervision, which is optional, is not installed.

        Example:
            >>> import numpy as np
            >>> from ppdet_repro import Result
            >>> image = np.zeros([64, 64, 3], np.uint8)
            >>> result = Result(np.float32([[0, 0.9, 8, 8, 40, 56]]), ["cat"], [1], image, "image_0.jpg")
            >>> detections = result.to_supervision()  # doctest: +SKIP
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise UserError("to_supervision needs the package supervision: pip install supervision") from error
        names = np.array(self.names, dtype=str)
        return Detections(xyxy=self.boxes, confidence=self.scores, class_id=self.classes, data={"class_name": names})
