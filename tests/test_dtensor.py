"""Distributed tensors as parameters, in two processes: the same steps as those of one, or an error."""

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module

from d2l_adam.torch import Adam

GENERATOR = torch.Generator().manual_seed(0)
W, X = torch.randn(5, 3, generator=GENERATOR), torch.randn(3, 8, 5, generator=GENERATOR)
RATE = {"lr": 0.1, "eps": 1e-6}


def train(optimizer, forward, batches=X):
    for x in batches:
        optimizer.zero_grad()
        (forward(x) ** 3).sum().backward()
        optimizer.step()


def gradients_are_brought_to_their_parameters(mesh):
    for placement in (Replicate(), Shard(0), Shard(1)):
        for rows in (5, 1):  # of one row, one of the processes has none
            for dtype in (torch.float32, torch.bfloat16):
                w = torch.nn.Parameter(distribute_tensor(W[:rows].to(dtype, copy=True), mesh, [placement]))
                twin = torch.nn.Parameter(W[:rows].to(dtype, copy=True))
                batches = X[..., :rows].to(dtype).contiguous()
                train(Adam([w], **RATE), lambda x, w=w: distribute_tensor(x, mesh, [Shard(0)]) @ w, batches)
                half = dtype == torch.bfloat16  # of torch's Adam, which would average in bfloat16, it is no twin
                train((Adam if half else torch.optim.Adam)([twin], **RATE), lambda x, w=twin: x @ w, batches)
                assert w.grad.placements == (Partial(),)
                name = f"{placement}, {rows} rows, {dtype}: {{}}".format
                torch.testing.assert_close(w.full_tensor(), twin, rtol=0, atol=1e-2 if half else 1e-6, msg=name)


def sequence_parallel_norms_step(mesh):
    norm, twin = torch.nn.LayerNorm(5), torch.nn.LayerNorm(5)
    parallelize_module(norm, mesh, SequenceParallel())
    train(Adam(norm.parameters(), **RATE), lambda x: norm(distribute_tensor(x[None], mesh, [Shard(1)])))
    train(torch.optim.Adam(twin.parameters(), **RATE), lambda x: twin(x[None]))
    assert norm.weight.grad.placements == (Partial(),)
    for p, other in zip(norm.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), other, rtol=0, atol=1e-6)


def what_does_not_lie_together_is_refused(mesh):
    def whole(mesh, placement):
        return distribute_tensor(W.clone(), mesh, [placement] * mesh.ndim)

    with pytest.raises(ValueError, match=r"pytorch: parameter 0 is \(Partial.*; redistribute it to Shard or Replicate"):
        Adam([torch.nn.Parameter(DTensor.from_local(W.clone(), mesh, [Partial()]))])
    other_mesh = init_device_mesh("cpu", (2, 1))
    for p, grad, average, error, words in (
        (whole(mesh, Replicate()), W, None, TypeError, "gradient of parameter 1 is Tensor, the parameter DTensor"),
        (W.clone(), whole(mesh, Replicate()), None, TypeError, "gradient of parameter 1 is DTensor, the parameter Par"),
        (whole(mesh, Replicate()), whole(other_mesh, Replicate()), None, ValueError, "gradient of .* on DeviceMesh"),
        (whole(mesh, Shard(0)), whole(mesh, Shard(0)), W, TypeError, "state v of parameter 1 is Tensor, the parameter"),
        (W.clone(), W, whole(mesh, Replicate()), TypeError, "state v of parameter 1 is DTensor, the parameter Par"),
        (whole(mesh, Shard(1)), whole(mesh, Shard(1)), whole(mesh, Shard(0)), ValueError, r"state v .* is \(Shard"),
    ):
        first, second = torch.nn.Parameter(W.clone()), torch.nn.Parameter(p)
        optimizer = Adam([first, second])
        first.grad, second.grad = W.clone(), grad
        if average is not None:
            zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[second] = {"step": torch.tensor(0.0)} | zeros | {"exp_avg": average}
        with pytest.raises(error, match=f"pytorch: {words}"):
            optimizer.step()
        assert torch.equal(first, W)
        assert first not in optimizer.state


def process(rank, store):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    gradients_are_brought_to_their_parameters(mesh)
    sequence_parallel_norms_step(mesh)
    what_does_not_lie_together_is_refused(mesh)
    distributed.destroy_process_group()


def test_two_processes_step_as_one(tmp_path):
    torch.multiprocessing.spawn(process, (tmp_path / "store",), 2)
