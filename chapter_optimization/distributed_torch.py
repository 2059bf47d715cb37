"""The chapter's training run by several processes in PyTorch, each with its part of every batch.

`--engine` is one of

- `ddp`: DistributedDataParallel. Every process holds all parameters; their gradients are averaged.
- `zero`: the same, but ZeroRedundancyOptimizer keeps the state of each parameter in one process only.
- `fsdp`: fully_shard. Every process holds its rows of each parameter, of its gradient and of its state.

By hand:

    torchrun --standalone --nproc-per-node 2 chapter_optimization/distributed_torch.py --engine fsdp curve.json
"""

import gc
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from d2l_adam import protocol
from d2l_adam import torch as tab
from distributed_run import LR, options, steps, write


class Regression(torch.nn.Module):
    """Linear regression from given weights and bias."""

    def __init__(self, weights, bias):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(weights))
        self.b = torch.nn.Parameter(torch.tensor(bias))

    def forward(self, X):
        """Return the predictions."""
        return X @ self.w + self.b


def loss(model, X, y):
    """Return the mean of half the squared error."""
    return ((model(torch.from_numpy(X)) - torch.from_numpy(y)) ** 2 / 2).mean()


def train(engine, rule, rank, processes):
    """Return the loss curve of one of the processes, the same in each."""
    features, labels, weights, bias = protocol.start()
    model = Regression(weights, bias)
    if engine == "fsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (processes,)))
    else:
        model = DistributedDataParallel(model)
    if engine == "zero":
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=rule, lr=LR)
    else:
        optimizer = rule(model.parameters(), lr=LR)
    curve = []
    for X, y, recorded in steps(rank, processes):
        optimizer.zero_grad()
        loss(model, X, y).backward()  # averages the gradients of the processes: that of the whole batch
        optimizer.step()
        if recorded:
            with torch.no_grad():  # in every process, because fsdp collects the parameters from all of them
                curve.append(loss(model, features, labels).item())
    return curve


@record  # torchrun shows the error of a process that fails
def main():
    """Train, as one of the processes that torchrun has started."""
    given = options("ddp", "zero", "fsdp")
    distributed.init_process_group("gloo")
    rank, rule = distributed.get_rank(), {"adam": tab.Adam, "yogi": tab.Yogi}[given.rule]
    # A process group and its threads end with the last reference to it. A thread that still has to let go of a tensor
    # when Python ends aborts the process. Two things refer to the group: what PyTorch remembers of sharded tensors,
    # until the thread that works with them ends; and a sharded model, in cycles, until it is collected.
    with ThreadPoolExecutor(1) as thread:
        curve = thread.submit(train, given.engine, rule, rank, distributed.get_world_size()).result()
    write(given.curve, rank, curve)
    gc.collect()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
