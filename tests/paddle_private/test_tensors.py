"""New tensors by the shortest way."""

import paddle

from ppdet_repro.paddle_private.tensors import empty


def test_an_empty_tensor_is_that_of_paddle():
    for shape in ((2, 3), [2, 3], [5]):
        made, expected = empty(shape), paddle.empty(list(shape), "float32")
        assert made.shape == expected.shape
        assert (made.dtype, str(made.place), made.stop_gradient) == (expected.dtype, "Place(cpu)", True)
    made.set_value(paddle.arange(5, dtype="float32"))
    assert made.numpy().tolist() == [0, 1, 2, 3, 4]
