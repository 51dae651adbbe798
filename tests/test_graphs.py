"""Recorded steps: what a graph replays is what steps do, on a tape of CPU operators and on CUDA."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_dkp import restore
from napari_dkp.config import DIPConfig
from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
from napari_dkp.restorers import dip, graphs
from napari_dkp.restorers.dip import DIPRestorer
from napari_dkp.restorers.graphs import CUDAGraph, Replayed, Work
from napari_dkp.restorers.networks import SkipNetwork
from napari_dkp.state import Stop


class Tape(TorchDispatchMode):
    """A graph of operators on the CPU.

    As on CUDA, a replay runs no Python of the work: operators get the numbers and the storage that
    they had. A recording does the work, so the first replay has nothing to do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rehearsals = self.replays = 0
        self.operators: list[tuple[object, ...]] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number is read: the device would be waited for")
        result = operator(*args, **(kwargs or {}))
        self.operators.append((operator, args, kwargs or {}, result))
        return result

    def rehearse(self, work: Work) -> tuple[Tensor, ...]:
        self.rehearsals += 1
        return work()

    def record(self, work: Work) -> tuple[Tensor, ...]:
        with self:
            return work()

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        if self.replays == 1:
            return
        for operator, args, kwargs, result in self.operators:
            again = operator(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


# Replayed work


class Adding:
    """Work that adds up in a tensor that stays where it is."""

    def __init__(self) -> None:
        self.step, self.total = torch.ones(()), torch.zeros(())
        self.calls = 0

    def __call__(self) -> tuple[Tensor, ...]:
        self.calls += 1
        self.total.add_(self.step)
        return self.total.clone(), 2 * self.total


@pytest.mark.parametrize("tape", [None, Tape()], ids=["anew", "replayed"])
def test_work_is_done_once_per_call(tape):
    replayed, work = Replayed(tape), Adding()
    outputs = []
    for step in range(1, 9):
        work.step.fill_(step)
        outputs.append(replayed(work))
    # Read at the end: what was handed out is not written again.
    assert [[value.item() for value in pair] for pair in outputs] == [
        [total, 2 * total] for total in (1, 3, 6, 10, 15, 21, 28, 36)
    ]
    if tape is not None:
        assert (tape.rehearsals, tape.replays, work.calls) == (3, 5, 4)


def test_where_recording_fails_the_work_goes_on_anew():
    class Broken(Tape):
        def record(self, work: Work) -> tuple[Tensor, ...]:
            raise RuntimeError("operation not permitted")

    replayed, work = Replayed(Broken()), Adding()
    totals = [replayed(work)[0].item() for _ in range(3)]
    with pytest.warns(UserWarning, match="operation not permitted"):
        totals.append(replayed(work)[0].item())
    totals += [replayed(work)[0].item() for _ in range(3)]
    assert totals == [1, 2, 3, 4, 5, 6, 7]


# Steps of the restorer

MODEL = Degradation((14, 13), (2, 2), (5, 5))
KERNELS = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(1))
KERNELS /= KERNELS.sum((1, 2), keepdim=True)
DATA = torch.rand(2, 14, 13, generator=torch.Generator().manual_seed(2))
SEEN = torch.rand(14, 13, generator=torch.Generator().manual_seed(3)) < 0.8
N_STEPS = 24


def restorer(device: str = "cpu", seen: Tensor | None = None, **config: object) -> DIPRestorer:
    return DIPRestorer(
        MODEL,
        DATA.to(device),
        (-0.1, 1.5),
        DIPConfig(**{"channels": 8, "gradient_weight": 0.01} | config),
        N_STEPS,
        torch.float32,
        torch.Generator().manual_seed(0),
        None if seen is None else seen.to(device),
    )


def steps_of(fitted: DIPRestorer) -> list[RestorerStep]:
    kernels = KERNELS.to(fitted._data.device).unbind()
    return [fitted.step(kernels[len(kernels) * step // N_STEPS]) for step in range(N_STEPS)]


def record_on_tapes(monkeypatch) -> list[Tape]:
    """Let restorers record their steps, with learning rates in tensors as on CUDA."""
    made: list[Tape] = []
    make_optimisers = dip.make_optimisers

    def recordable(network, config):
        optimisers = make_optimisers(network, config)
        for optimiser in optimisers:
            optimiser.rate = torch.tensor(optimiser.rate, dtype=torch.float64)
        return optimisers

    monkeypatch.setattr(dip, "make_graph", lambda device: made.append(Tape()) or made[-1])
    monkeypatch.setattr(dip, "make_optimisers", recordable)
    return made


def published(config: DIPConfig, channels: int, shape: tuple[int, ...]) -> SkipNetwork:
    """Make the published network with few channels, and with attention."""
    with torch.random.fork_rng(devices=[]):
        return SkipNetwork(3, channels, (8, 8), padding="reflect", attention_from=1)


@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "some left out"])
@pytest.mark.parametrize(
    ("config", "replays"),
    [
        ({}, [N_STEPS - 3]),
        ({"ssim_fraction": 0.5}, [N_STEPS // 2 - 3] * 2),
        ({"ssim_fraction": 0.0}, [0, N_STEPS - 3]),
        ({"ssim_fraction": 0.1}, [0, N_STEPS - 2 - 3]),
        ({"optimiser": "adam", "learning_rate": 1e-3}, [N_STEPS - 3]),
        ({"network": "published"}, [N_STEPS - 3]),
        ({"gradient_weight": 0.0}, [N_STEPS - 3]),
    ],
    ids=["light", "two phases", "squared", "short phase", "adam", "published", "no prior"],
)
def test_replayed_steps_are_the_steps(monkeypatch, config, replays, seen):
    """While kernel, learning rate, weight of the prior and kind of fidelity change."""
    if "network" in config:
        monkeypatch.setattr(dip, "make_network", published)
    plain = restorer(seen=seen, **config)
    expected = steps_of(plain)
    tapes = record_on_tapes(monkeypatch)
    recorded = restorer(seen=seen, **config)
    for step, reference in zip(steps_of(recorded), expected, strict=True):
        assert all(map(torch.equal, step[:4], reference[:4]))
    assert [tape.replays for tape in tapes] == replays
    states = (fitted._network.state_dict().values() for fitted in (recorded, plain))
    assert all(map(torch.equal, *states))


def test_where_recording_fails_steps_are_the_same(monkeypatch):
    def fail(self: Tape, work: Work) -> tuple[Tensor, ...]:
        raise RuntimeError("operation not permitted")

    expected = steps_of(restorer())
    record_on_tapes(monkeypatch)
    monkeypatch.setattr(Tape, "record", fail)
    with pytest.warns(UserWarning, match="operation not permitted") as warned:
        steps = steps_of(restorer())
    assert len(warned) == 1
    for step, reference in zip(steps, expected, strict=True):
        assert all(map(torch.equal, step[:4], reference[:4]))


def test_a_restorer_is_freed_with_its_last_reference(monkeypatch):
    """Many are made, one after the other, and each fills its device."""
    record_on_tapes(monkeypatch)
    fitted = restorer()
    steps_of(fitted)
    reference = weakref.ref(fitted)
    gc.disable()
    try:
        del fitted
        assert reference() is None
    finally:
        gc.enable()


# CUDA

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@contextmanager
def not_waiting() -> Iterator[None]:
    """Make waiting for the device an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_cuda
@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "some left out"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"ssim_fraction": 0.5},
        {"optimiser": "adam", "learning_rate": 1e-3},
        {"network": "published"},
    ],
    ids=["light", "two phases", "adam", "published"],
)
def test_a_cuda_graph_replays_the_steps(monkeypatch, config, seen):
    recorded = restorer("cuda", seen, **config)
    steps = steps_of(recorded)
    assert recorded._replayed._outputs is not None
    monkeypatch.setattr(dip, "make_graph", lambda device: None)
    expected = steps_of(restorer("cuda", seen, **config))
    # Sums are in no fixed order on CUDA, and steps magnify that.
    for step, reference in zip(steps[:8], expected[:8], strict=True):
        assert (step.image - reference.image).abs().mean() < 0.01
        torch.testing.assert_close(step.loss, reference.loss, rtol=0.05, atol=1e-3)
        torch.testing.assert_close(step.residual, reference.residual, rtol=0.05, atol=1e-3)
    assert steps[-1].residual < 1.2 * expected[-1].residual


@on_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_steps_on_cuda_do_not_wait_for_it():
    fitted = restorer("cuda")
    kernels = KERNELS.cuda().unbind()
    for _ in range(graphs._REHEARSALS + 1):
        fitted.step(kernels[0])
    with not_waiting():
        steps = [fitted.step(kernel) for kernel in kernels]
    copies = [step.image.clone() for step in steps]
    fitted.step(kernels[0])
    assert all(torch.equal(step.image, copy) for step, copy in zip(steps, copies, strict=True))


@on_cuda
def test_a_whole_run_on_cuda():
    image = DATA[0].numpy()
    result = restore(image, scale=2, kernel_size=5, preset="fast", iterations=30, device="cuda")
    assert result.stop is Stop.COMPLETED
    assert len(result.history) == 30


@on_cuda
def test_a_recording_that_fails_on_cuda_leaves_things_as_they_were():
    """The last test here: before torch 2.12, the allocator is not itself after such a failure."""
    data = torch.zeros(3, device="cuda")
    stream = torch.cuda.current_stream()
    replayed = Replayed(CUDAGraph(data.device))

    def work() -> tuple[Tensor, ...]:
        data.add_(1)
        if torch.cuda.is_current_stream_capturing():
            data.sum().item()
        return (data.clone(),)

    outputs = [replayed(work) for _ in range(graphs._REHEARSALS)]
    with pytest.warns(UserWarning, match="steps are slower"):
        outputs.append(replayed(work))
    outputs.append(replayed(work))
    assert torch.cuda.current_stream() == stream
    assert [output.tolist() for (output,) in outputs] == [[n] * 3 for n in range(1, 6)]
