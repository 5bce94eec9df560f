"""The sizes of tensors, also in programs that are traced."""

from __future__ import annotations

from typing import List, Union

import paddle

Size = Union[int, paddle.Tensor]  # of an axis; a tensor [] where a program knows it only when it runs


@paddle.jit.not_to_static  # it does what Paddle's translation would make of `x.shape`
def sizes(x: paddle.Tensor) -> List[Size]:
    """The sizes of a tensor's axes. `x.shape` has -1 where a traced program knows a size only when it runs.

    Example:
        >>> import paddle
        >>> sizes(paddle.zeros([2, 3]))
        [2, 3]
    """
    if all(size >= 0 for size in x.shape):
        return list(x.shape)
    shape = paddle.shape(x)
    return [size if size >= 0 else shape[axis] for axis, size in enumerate(x.shape)]
