"""Training and evaluation with several processes.

`python -m paddle.distributed.launch` starts the processes: one per GPU (NCCL), or several on the CPU (gloo). All
processes have the same weights at all times, because every update averages the gradients and the running statistics of
batch norms over the processes. If one process fails, the launcher ends the others.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, TypeVar

import paddle
import paddle.distributed as dist
from paddle import nn

from ppdet_repro.paddle_private.layers import BATCH_NORMS, is_frozen
from ppdet_repro.paddle_private.layers import running_statistics as statistics_of
from ppdet_repro.paddle_private.quantization import activation_ranges
from ppdet_repro.paddle_private.threads import set_num_threads
from ppdet_repro.utils import cpu_env
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.launch import end_on_sigterm
from ppdet_repro.utils.logger import get_logger

T = TypeVar("T")

BUCKET_SIZE = 1 << 24  # numbers per message: limits the memory for messages to a few times 64 MB


class World(NamedTuple):
    """The processes of a run, as seen from one of them."""

    rank: int  # the number of this process, from 0
    size: int  # the number of processes
    gpu: bool  # whether they use GPUs


def start(use_gpu: bool) -> World:
    """Choose the device, and connect to the other processes that `paddle.distributed.launch` started, if any.

    The number of CPU threads is set again, because a Paddle Inference predictor that was created earlier in this
    process changes it. With another number of threads sums are computed in another order, and their last bits differ.
    """
    end_on_sigterm()
    gpu = use_gpu and paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if use_gpu and not gpu:
        get_logger().info("use_gpu is true, but Paddle finds no GPU here: running on the CPU")
    if not gpu:
        get_logger().info(cpu_env.describe())
    threads = cpu_env.threads()
    if threads:
        set_num_threads(threads)
    paddle.set_device("gpu" if gpu else "cpu")
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1:
        dist.init_parallel_env()
    return World(dist.get_rank(), dist.get_world_size(), gpu)


def gather(value: Any) -> List[Any]:
    """The value of each process, in the order of their ranks."""
    if dist.get_world_size() == 1:
        return [value]
    values: List[Any] = []
    dist.all_gather_object(values, value)
    return values


def gather_results(action: Callable[[], T]) -> List[T]:
    """Call `action` on every process, and gather the results as `gather` does. If it raises a UserError on some
    processes, all of them raise the first one."""
    result: Optional[T] = None
    message: Optional[str] = None
    try:
        result = action()
    except UserError as error:
        if dist.get_world_size() == 1:
            raise
        message = str(error)
    results = gather((result, message))
    for _, message in results:
        if message is not None:
            raise UserError(message)
    return [result for result, _ in results]


@paddle.no_grad()
def means(tensors: Sequence[paddle.Tensor]) -> List[paddle.Tensor]:
    """The mean of each tensor over all processes, in float32. Every process gets exactly the same values."""
    results: List[paddle.Tensor] = []
    size = dist.get_world_size()
    for bucket in _buckets(tensors):
        flat = paddle.concat([_astype(tensor, paddle.float32).reshape([-1]) for tensor in bucket])
        dist.all_reduce(flat)
        pieces = paddle.split(flat.scale_(1 / size), [tensor.size for tensor in bucket])
        results += [piece.reshape(tensor.shape) for piece, tensor in zip(pieces, bucket)]
    return results


def _astype(tensor: paddle.Tensor, dtype: paddle.dtype) -> paddle.Tensor:
    """The tensor in another data type, without a copy if it has that type already."""
    return tensor if tensor.dtype == dtype else tensor.astype(dtype)


def _buckets(tensors: Sequence[paddle.Tensor]) -> Iterator[List[paddle.Tensor]]:
    """Lists of successive tensors with at most `BUCKET_SIZE` numbers together. A larger tensor is a list of its own."""
    bucket: List[paddle.Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and filled + tensor.size > BUCKET_SIZE:
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
    """Replace each gradient and each running statistic by its mean over the processes, and return the mean of values.

    Everything is sent together, because every exchange waits for the slowest process. A parameter that has a gradient
    in some processes only counts as zero in the others. A parameter without a gradient in any process still has none
    afterwards, so the optimizer skips it.
    """
    present = [p.grad is not None for p in parameters]
    gradients = [p.grad if has else paddle.zeros_like(p) for p, has in zip(parameters, present)]
    averaged = iter(means([*gradients, *statistics, values, paddle.to_tensor(present, dtype="float32")]))
    new_gradients, new_statistics = list(islice(averaged, len(parameters))), list(islice(averaged, len(statistics)))
    mean, anywhere = averaged
    for parameter, gradient, used in zip(parameters, new_gradients, anywhere.numpy()):
        if used:
            parameter.grad = _astype(gradient, parameter.dtype)
    for statistic, average in zip(statistics, new_statistics):
        paddle.assign(average.astype(statistic.dtype), output=statistic)
    return mean


@paddle.no_grad()
def copy_from_first(tensors: Sequence[paddle.Tensor]) -> None:
    """Copy the tensors of process 0 to all processes."""
    for tensor in tensors:
        dist.broadcast(tensor, src=0)


def running_statistics(model: nn.Layer) -> List[paddle.Tensor]:
    """The tensors that training updates without gradients: the means and variances of batch norms that are not frozen,
    and the activation ranges of quantized layers."""
    norms = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, BATCH_NORMS)]
    moments = [moment for norm in norms if not is_frozen(norm) for moment in statistics_of(norm)]
    return moments + activation_ranges(model)


def synchronize_batch_norms(model: nn.Layer, world: World) -> None:
    """Let batch norms normalize over the images of all processes, for `norm_type: sync_bn`; on the CPU they do not.
    Frozen batch norms, which use their running statistics, are left alone: Paddle's conversion would unfreeze them."""
    if not world.gpu:
        get_logger().info("norm_type sync_bn: BN used instead, as there is no GPU")
    elif world.size > 1:
        for layer in model.sublayers(include_self=True):
            for name, child in layer.named_children():
                if isinstance(child, nn.BatchNorm2D) and not is_frozen(child):
                    setattr(layer, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
