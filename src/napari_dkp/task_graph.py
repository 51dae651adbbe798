"""The tasks that restore an image, as dask knows them; of its modules, only here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.delayed import Delayed
from dask.graph_manipulation import bind
from dask.highlevelgraph import HighLevelGraph

from napari_dkp import sharing, tasks
from napari_dkp.groups import Group
from napari_dkp.layout import Index
from napari_dkp.stack import Run


class TaskGraph:
    """Tasks that restore an image: per channel one that finds the plan, and one per block.

    Parameters
    ----------
    job : what all tasks have in common.
    run : of the image.
    image : an array.
    """

    def __init__(self, job: tasks.Job, run: Run, image: Any) -> None:
        self._layout = run.layout
        self._token = uuid4().hex
        self._layers: dict[str, Mapping[Any, Any]] = {}
        self._needs: dict[str, set[str]] = {}
        self._numbers = {index: number for number, index in enumerate(run.layout.planes)}
        # The task that restores a plane, and which of the task's planes it is.
        self._restored: dict[Index, tuple[tuple[str, int], int]] = {}
        self._job = self._add_one("restoration", job)
        self._computed = isinstance(image, da.Array)
        source = self._source(image)
        for group in run.groups:
            self._add_group(group, source)

    def array(
        self,
        what: str,
        part: Callable[[tasks.Held[list[tasks.Restored]], int], np.ndarray],
        shape: Sequence[int],
        axes: str,
    ) -> da.Array:
        """Return one part of what is restored, with a chunk per plane.

        Parameters
        ----------
        what : its name.
        part : takes it from the result of a task, for the plane of a number.
        shape : of the part, for one plane.
        axes : of the array.
        """
        looped = dict(zip(self._layout.looped, self._layout.looped_shape, strict=True))
        own = iter(shape)
        chunks = tuple((1,) * looped[a] if a in looped else (next(own),) for a in axes)
        name = self._name(what)
        layer = {
            (name, *self._block(index, axes)): (part, task, number)
            for index, (task, number) in self._restored.items()
        }
        self._add(name, layer, {task[0] for task, _ in self._restored.values()})
        meta = np.empty((0,) * len(axes), np.float32)
        return da.Array(self._graph(), name, chunks, meta=meta)

    def _add_group(self, group: Group, source: da.Array | str) -> None:
        plan = None
        if group.piloted:
            looked_at = self._read(source, sharing.looked_at(group.planes))
            task = (tasks.find_plan, self._job, group.channel, *looked_at)
            needs = self._job, _name_of(source)
            plan = self._add_one(f"find-plan-{group.channel}", task, *needs)
            source = self._after(plan, source)
        name = self._name(f"restore-planes-{group.channel}")
        layer = {}
        for number, block in enumerate(group.blocks):
            planes = self._read(source, block)
            layer[name, number] = (tasks.restore_planes, self._job, group.channel, *planes, plan)
            for position, index in enumerate(block):
                self._restored[index] = (name, number), position
        self._add(name, layer, {self._job, _name_of(source), *filter(None, [plan])})

    # What is read

    def _source(self, image: Any) -> da.Array | str:
        """Return a dask array with a chunk per plane, or the key of an array read in tasks."""
        looped = self._layout.looped
        chunks = tuple(1 if axis in looped else -1 for axis in self._layout.axes)
        if isinstance(image, np.ndarray):
            image = da.from_array(image, chunks=chunks, name=False)
        if isinstance(image, da.Array):
            return self._include(image.rechunk(chunks))
        return self._add_one("source", image)

    def _read(
        self, source: da.Array | str, indices: Sequence[Index]
    ) -> tuple[list[int], list[tuple[str, ...]] | str]:
        """Return numbers of planes, and the keys under which tasks get these."""
        numbers = [self._numbers[index] for index in indices]
        if isinstance(source, str):
            return numbers, source
        return numbers, [(source.name, *self._block(i, self._layout.axes)) for i in indices]

    def _after(self, plan: str, source: da.Array | str) -> da.Array | str:
        """Let no plane be computed before there is a plan: all would have to wait in memory."""
        if isinstance(source, str) or not self._computed:
            return source
        return self._include(bind(source, Delayed(plan, self._graph()), seed=plan))

    def _block(self, index: Index, axes: str) -> tuple[int, ...]:
        """Return the number of a plane's chunk along each axis."""
        place = dict(zip(self._layout.looped, index, strict=True))
        return tuple(place.get(axis, 0) for axis in axes)

    # How dask keeps it

    def _graph(self) -> HighLevelGraph:
        return HighLevelGraph(dict(self._layers), dict(self._needs))

    def _name(self, what: str) -> str:
        return f"{what}-{self._token}"

    def _add(self, name: str, layer: Mapping[Any, Any], needs: Iterable[str]) -> None:
        self._layers[name] = layer
        self._needs[name] = set(needs)

    def _add_one(self, what: str, task: Any, *needs: str) -> str:
        """Add a layer that is a single task, or a value; return its key."""
        name = self._name(what)
        self._add(name, {name: task}, needs)
        return name

    def _include(self, array: da.Array) -> da.Array:
        """Take in all that an array is computed from."""
        self._layers.update(array.dask.layers)
        self._needs.update(array.dask.dependencies)
        return array


def _name_of(source: da.Array | str) -> str:
    return source if isinstance(source, str) else str(source.name)
