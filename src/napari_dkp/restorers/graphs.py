"""Work that repeats itself, recorded once and replayed from then on.

A small network's kernels take less time to run than Python takes to launch them. A CUDA graph
launches all of a step's at once.
"""

import warnings
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[], tuple[Tensor, ...]]
"""Reads and writes tensors that stay where they are, and returns tensors without a gradient."""


class Graph(Protocol):
    """A recording of work."""

    def rehearse(self, work: Work) -> tuple[Tensor, ...]:
        """Do the work where it will be recorded: what is set up at the first time is not part."""

    def record(self, work: Work) -> tuple[Tensor, ...]:
        """Record the work, undone; return the tensors that each replay writes."""

    def replay(self) -> None:
        """Do the work as recorded."""


class Replayed:
    """Does work that is the same each time, after some calls by a replay.

    Parameters
    ----------
    graph : where the work is recorded; None does it anew each time.
    """

    def __init__(self, graph: Graph | None) -> None:
        self._graph = graph
        self._rehearsals = _REHEARSALS
        self._outputs: tuple[Tensor, ...] | None = None

    def __call__(self, work: Work) -> tuple[Tensor, ...]:
        """Do the work once; return its tensors, which are not written again.

        Parameters
        ----------
        work : the same at each call. It is not kept: a method bound to the owner of this object
            would keep that alive, with all its memory.
        """
        if self._graph is None:
            return work()
        if self._rehearsals:
            self._rehearsals -= 1
            return self._graph.rehearse(work)
        if self._outputs is None:
            try:
                self._outputs = self._graph.record(work)
            except RuntimeError as error:
                warnings.warn(f"No CUDA graph, so steps are slower: {error}", stacklevel=2)
                self._graph = None
                return work()
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)


# Times that libraries get to choose algorithms and to allocate what they keep.
_REHEARSALS = 3


class CUDAGraph:
    """A graph of kernels on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._stream = _side_stream(device)
        self._graph = torch.cuda.CUDAGraph()

    def rehearse(self, work: Work) -> tuple[Tensor, ...]:
        """Do the work on the stream of the recording: libraries keep a workspace per stream."""
        caller = torch.cuda.current_stream(self._stream.device)
        with _alone:
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                outputs = work()
            caller.wait_stream(self._stream)
        for output in outputs:
            output.record_stream(caller)
        return outputs

    def record(self, work: Work) -> tuple[Tensor, ...]:
        """Record the work, undone; return the tensors that each replay writes."""
        with (
            _alone,
            torch.cuda.stream(self._stream),  # a recording that fails does not leave its stream
            # Other threads may use the device for other things meanwhile.
            torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            return work()

    def replay(self) -> None:
        """Do the work as recorded, on the current stream."""
        self._graph.replay()


# What another thread does on the stream would be recorded too.
_alone = Lock()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of all recordings: each further one would cost a workspace."""
    return torch.cuda.Stream(device)


def make_graph(device: torch.device) -> Graph | None:
    """Return a graph where the device has such."""
    return CUDAGraph(device) if device.type == "cuda" else None
