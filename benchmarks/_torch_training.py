"""What train_cpu.py runs with the Python that has PyTorch: is a network the same as Paddle's, and how fast is it?

    python benchmarks/_torch_training.py '{"task": "gemm", "threads": 2}'

The task is compare, train or gemm. The answer is a line of JSON. Nothing here imports Paddle or this package.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Dict, List

import numpy as np
import torch
from _memory import peak_memory
from torch import Tensor, nn
from torch_networks import NETWORKS, load, own_name

GEMM_SIDE = 2048
GEMM_TRIES = 5
INFINITE = 1e30  # JSON has no infinity


def loss_of(outputs: List[Tensor]) -> Tensor:
    """The sum over the outputs of the mean of their squares, at least in float32."""
    outputs = [output.float() if output.dtype == torch.bfloat16 else output for output in outputs]
    return torch.stack([output.square().mean() for output in outputs]).sum()


def compare(network: nn.Module, file: str) -> Dict[str, Any]:
    """Compare with the reference that `_paddle_training.write_reference` has written. The answer:

    parameters, trained: how many values the network has, and how many of them get a gradient
    outputs, gradients: the largest distance of an output in evaluation mode, and that of all gradients in training mode
    only one: the names of parameters that get a gradient here or in Paddle alone
    """
    with np.load(file) as stored:
        groups: Dict[str, Dict[str, np.ndarray]] = {}
        for key in stored.files:
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = stored[key]
    network.double()  # in float32, rounding decides where a ReLU is 0, and gradients differ by some per cent
    load(network, groups["weight"])
    image = torch.from_numpy(groups["image"][""])
    with torch.no_grad():
        outputs = [output.numpy() for output in network.eval()(image)]
    loss_of(network.train()(image)).backward()
    found = {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    expected = {own_name(name): values for name, values in groups["gradient"].items()}
    both = sorted(found.keys() & expected.keys())
    expected_outputs = list(groups["output"].values())
    distances = [distance(one, other) for one, other in zip(expected_outputs, outputs)]
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "trained": sum(values.size for values in found.values()),
        "outputs": max(distances) if len(outputs) == len(expected_outputs) else INFINITE,
        "gradients": distance(*(np.concatenate([g[name].ravel() for name in both]) for g in (expected, found))),
        "only one": sorted(found.keys() ^ expected.keys()),
    }


def distance(expected: np.ndarray, found: np.ndarray) -> float:
    """The norm of the difference over the norm of what is expected; INFINITE for another shape."""
    if expected.shape != found.shape:
        return INFINITE
    return float(np.linalg.norm(expected - found) / np.linalg.norm(expected))


def measure(network: nn.Module, request: Dict[str, Any]) -> float:
    """Images per second over `steps` updates after a warm-up update, channels last, eager mode."""
    network = network.train().to(memory_format=torch.channels_last)
    image = torch.randn(request["shape"]).contiguous(memory_format=torch.channels_last)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, request["lr"], momentum=0.9, fused=True)
    for step in range(request["steps"] + 1):
        if step == 1:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=request["bfloat16"]):
            outputs = network(image)
        loss = loss_of(outputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    if not torch.isfinite(loss):
        raise RuntimeError("the loss is not finite")
    return request["steps"] * len(image) / seconds


def gemm() -> float:
    """The best rate of a product of two square float32 matrices, in multiply-adds per second."""
    a, b = torch.randn(2, GEMM_SIDE, GEMM_SIDE).unbind()
    rates = []
    for _ in range(GEMM_TRIES + 1):
        start = time.perf_counter()
        torch.mm(a, b)
        rates.append(GEMM_SIDE**3 / (time.perf_counter() - start))
    return max(rates)


def answer(request: Dict[str, Any]) -> Dict[str, Any]:
    """What a task finds; {error} if the network is not here or is another one."""
    if request["task"] == "gemm":
        return {"rate": gemm()}
    if request["network"] not in NETWORKS:
        return {"error": f"{request['network']} is not written for PyTorch; there are {', '.join(NETWORKS)}"}
    network = NETWORKS[request["network"]](request["classes"])
    if request["task"] == "train":
        return {"rate": measure(network, request)}
    try:
        return compare(network, request["file"])
    except RuntimeError as error:
        return {"error": f"PyTorch's network is not Paddle's; leave out overrides of its size: {error}"}


def main() -> None:
    request = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(request["threads"])
    settings = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    found = answer(request)
    print(json.dumps({**found, "memory": peak_memory(), "settings": settings}))


if __name__ == "__main__":
    main()
