"""One training or evaluation over several processes.

`python -m paddle.distributed.launch` starts the processes, one a GPU (NCCL) or several on the CPU (gloo).
All have the same weights at all times: the gradients, and the running statistics of batch norms, are
averaged in every step. Where one process fails, its launcher ends the others.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import Iterator, List, NamedTuple, Sequence

import paddle
import paddle.distributed as dist
from paddle import nn

from ppdet_repro.paddle_private.layers import BATCH_NORMS, is_frozen
from ppdet_repro.paddle_private.layers import running_statistics as statistics_of
from ppdet_repro.paddle_private.quantization import activation_ranges
from ppdet_repro.paddle_private.threads import set_num_threads
from ppdet_repro.utils import cpu_env
from ppdet_repro.utils.logger import get_logger

BUCKET = 1 << 24  # numbers that are sent at once; bounds the memory this takes to a few times 64 MB


class World(NamedTuple):
    """This process among all: its number, how many there are, and whether they use GPUs."""

    rank: int
    size: int
    gpu: bool


def start(use_gpu: bool) -> World:
    """Choose the device and meet the other processes, if `paddle.distributed.launch` started some.

    The number of CPU threads is set anew: a Paddle Inference predictor made earlier in this process leaves its
    own behind, and another number of threads sums in another order, to other bits.
    """
    gpu = use_gpu and paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if use_gpu and not gpu:
        get_logger().info("use_gpu is true, but Paddle finds no GPU here: running on the CPU")
    if not gpu:
        get_logger().info(cpu_env.describe())
    if cpu_env.threads():
        set_num_threads(cpu_env.threads())
    paddle.set_device("gpu" if gpu else "cpu")
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1:
        dist.init_parallel_env()
    return World(dist.get_rank(), dist.get_world_size(), gpu)


@paddle.no_grad()
def means(tensors: Sequence[paddle.Tensor]) -> List[paddle.Tensor]:
    """Each tensor's mean over all processes, float32; every process gets the same bits."""
    results: List[paddle.Tensor] = []
    size = dist.get_world_size()
    for bucket in _buckets(tensors):
        flat = paddle.concat([_as_float32(tensor).reshape([-1]) for tensor in bucket])
        dist.all_reduce(flat)
        pieces = paddle.split(flat.scale_(1 / size), [tensor.size for tensor in bucket])
        results += [piece.reshape(tensor.shape) for piece, tensor in zip(pieces, bucket)]
    return results


def _as_float32(tensor: paddle.Tensor) -> paddle.Tensor:
    """The tensor itself if it is float32: `astype` would copy it."""
    return tensor if tensor.dtype == paddle.float32 else tensor.astype("float32")


def _buckets(tensors: Sequence[paddle.Tensor]) -> Iterator[List[paddle.Tensor]]:
    """Runs of neighbours, each of at most `BUCKET` numbers or a single tensor."""
    bucket: List[paddle.Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and filled + tensor.size > BUCKET:
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.size
    if bucket:
        yield bucket


@paddle.no_grad()
def average_update(
    parameters: Sequence[paddle.Tensor], statistics: Sequence[paddle.Tensor], values: paddle.Tensor
) -> paddle.Tensor:
    """Replace each gradient, and each running statistic, by its mean over the processes; the mean of `values`.

    All in one exchange, as each waits for the slowest process. A parameter without gradient here but with one
    elsewhere counts as zero here; one without gradient anywhere keeps none, so that the optimizer leaves it
    alone.
    """
    present = [p.grad is not None for p in parameters]
    gradients = [p.grad if has else paddle.zeros_like(p) for p, has in zip(parameters, present)]
    averaged = iter(means([*gradients, *statistics, values, paddle.to_tensor(present, dtype="float32")]))
    new_gradients, new_statistics = list(islice(averaged, len(parameters))), list(islice(averaged, len(statistics)))
    mean, anywhere = averaged
    for parameter, gradient, used in zip(parameters, new_gradients, anywhere.numpy()):
        if used:
            parameter.grad = gradient if parameter.dtype == gradient.dtype else gradient.astype(parameter.dtype)
    for statistic, average in zip(statistics, new_statistics):
        paddle.assign(average.astype(statistic.dtype), output=statistic)
    return mean


@paddle.no_grad()
def copy_from_first(tensors: Sequence[paddle.Tensor]) -> None:
    """Give every process the tensors of rank 0."""
    for tensor in tensors:
        dist.broadcast(tensor, src=0)


def running_statistics(model: nn.Layer) -> List[paddle.Tensor]:
    """What training updates without gradients: means and variances of batch norms (but for frozen ones), and ranges of
    quantised layers."""
    moments = [
        statistic
        for layer in model.sublayers(include_self=True)
        if isinstance(layer, BATCH_NORMS) and not is_frozen(layer)
        for statistic in statistics_of(layer)
    ]
    return moments + activation_ranges(model)


def synchronize_batch_norms(model: nn.Layer, world: World) -> None:
    """Make batch norms see the images of all processes, for `norm_type: sync_bn`; on the CPU it stays
    ordinary.

    Frozen ones, which use their running statistics, are left as they are (Paddle's own conversion would
    thaw them).
    """
    if not world.gpu:
        get_logger().info("norm_type sync_bn: BN used instead, as there is no GPU")
    elif world.size > 1:
        _convert(model)


def _convert(layer: nn.Layer) -> None:
    for name, child in layer.named_children():
        if isinstance(child, nn.BatchNorm2D) and not is_frozen(child):
            setattr(layer, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            _convert(child)
