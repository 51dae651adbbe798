"""Planes of an image, channel after channel: a run that can be watched, and its result."""

import traceback
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from napari_dkp import _checks, sharing, vectorial_optics
from napari_dkp.block import Block
from napari_dkp.choice import choose
from napari_dkp.config import LENS_FAMILIES, Settings
from napari_dkp.degradation import Degradation
from napari_dkp.device import is_out_of_memory, resolve_device
from napari_dkp.diffusion import loading
from napari_dkp.groups import Group, groups
from napari_dkp.layout import Index, Layout
from napari_dkp.lone_pixels import Mended
from napari_dkp.plan import Plan
from napari_dkp.planes import Planes, as_array, as_seen, fetched, joined, sealed
from napari_dkp.report import Report
from napari_dkp.schedule import likely_steps, planned_steps
from napari_dkp.state import Restoration, State, Stop, Unfetched
from napari_dkp.tile_size import TileSize

States = Generator[State[np.ndarray], None, None]
Found = TypeVar("Found")


class Run:
    """A restoration that can be watched, stopped, and asked for its result.

    Everything is checked here, before any work. Iterate to run; each state is one image step of one
    plane, or of several that are restored together. Stop by not iterating further, then ask for
    `result`.

    What planes have in common is found first, in a few pieces. After that no plane depends on
    another one, so that some of them can be left out, or done elsewhere, without a difference.

    Parameters
    ----------
    image : array with axes as in `settings.axes`; dask and zarr arrays are read plane by plane.
    settings : see `Settings`; None fields are resolved here.
    kernel : known PSF in HR pixels, shape (*K,); the run is then non-blind.
    keep : hold all planes until the end, for `result`. False leaves them to who takes the states
        that are `done`: memory then does not grow with the number of planes.
    memory : bytes that this run may take of the CPU's memory; None for what is free.

    Attributes
    ----------
    settings : resolved settings, axes filled in.
    layout : which axes planes have, and along which they lie.
    choice : in words, what "auto" took for this image and why; empty where nothing was "auto".
    device : torch.device in use.
    n_planes, n_steps : planes, and image steps over all of them, as far as is known.
    groups : planes that have something in common, channel after channel.
    plans : what was found in common, per channel; None where nothing was.
    notes : what was done otherwise than planned.

    Raises
    ------
    TypeError, ValueError
        If the image, the kernel or a setting cannot be used; the message names it.
    """

    def __init__(
        self,
        image: Any,
        settings: Settings,
        kernel: np.ndarray | None = None,
        *,
        keep: bool = True,
        memory: int | None = None,
    ) -> None:
        image = as_array(image)
        _checks.real_dtype("image", np.dtype(image.dtype))
        self.layout = layout = Layout.of(image, settings.axes, settings.spatial)
        self.device = resolve_device(settings.device)
        self._planes = Planes(image, layout)
        self._keep = keep
        self.n_planes = len(layout.planes)
        of_image = replace(settings, axes=layout.axes)
        choice = choose(
            self._planes.telling,
            of_image if settings.volume else of_image.of_channel(layout.channel(layout.middle)),
            known_kernel=kernel is not None,
        )
        self.choice = choice.reason
        self.settings = replace(choice.settings, optics=settings.optics).resolve()
        if isinstance(settings.optics, tuple) and len(settings.optics) != layout.channels:
            raise ValueError(
                f"optics: expected one, or one for each channel, {layout.channels}; got "
                f"{len(settings.optics)}"
            )
        if self.settings.method == "diffusion" and self.settings.diffusion:
            loading.check(self.settings.diffusion)
        lenses = kernel is None and self.settings.kernel_family in LENS_FAMILIES
        if lenses and any(one.model == "vectorial" for one in self.settings.known_optics):
            vectorial_optics.check()
        ndim = len(layout.spatial)
        self._scales = self.settings.scales(ndim)
        self._kernel: np.ndarray | None = None
        if kernel is not None:
            self._kernel = _checks.psf("kernel", as_array(kernel), ndim)
        sizes = self.settings.taps(layout.lr_shape) if self._kernel is None else self._kernel.shape
        self._model = Degradation(
            layout.lr_shape, self._scales, sizes, self.settings.phase, self.settings.boundary
        )
        _checks.not_smaller_than_kernel("image", layout.lr_shape, self._scales, sizes)
        self.groups = groups(layout, self.settings, known_kernel=kernel is not None)
        together = max(len(block) for group in self.groups for block in group.blocks)
        channels = together * layout.colours
        self._tiles = TileSize(self.settings, self._model, channels, self.device, memory)
        self._keep_to_tiles()
        self.plans: dict[int, Plan | None] = {}
        self._steps = 0
        self._reset()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the restored image, axes as in the image."""
        shape = list(self.layout.shape)
        for axis, s in zip(self.layout.spatial, self._scales, strict=True):
            shape[self.layout.axes.index(axis)] *= s
        return tuple(shape)

    @property
    def diverged(self) -> bool:
        """Whether the fit of a plane diverged."""
        return self._diverged

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """Shape of a restored plane, axes as in the image."""
        pairs = zip(self.shape, self.layout.axes, strict=True)
        return tuple(n for n, axis in pairs if axis not in self.layout.looped)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Taps of a kernel along each spatial axis."""
        return self._model.kernel_shape

    def __iter__(self) -> States:
        """Run from the start; yield a state per image step."""
        return self.iterate()

    def iterate(self, done: Collection[Index] = ()) -> States:
        """Run, but for some planes.

        Parameters
        ----------
        done : indices of planes that are left out. Those that are restored together are, unless all
            of them are done. `plans` that were found before may be put in place first; nothing
            else is taken over from another run.
        """
        self._reset()
        began = perf_counter()
        for state in self._all(frozenset(done)):
            if self._keep:
                self._states[state.plane] = state
            if state.step != self._steps:
                history = self._search_history if state.searching else self._history
                history.append(state.residual)
            self._steps = state.step
            self._seconds = perf_counter() - began
            yield state
            if self._keep and state.done:
                self._states[state.plane] = replace(state)  # which fetches its arrays

    def find_plan(self, channel: int) -> Plan | None:
        """Find what the planes of a channel have in common, and keep it in `plans`.

        Of the image it reads what `sharing.looked_at` names.

        Raises
        ------
        ValueError
            If that channel has no such planes.
        """
        for group in self.groups:
            if group.channel == channel and group.piloted:
                for _ in self._find(group):
                    pass
                return self.plans[channel]
        raise ValueError(f"channel: expected one whose planes share a plan; got {channel}")

    def result(self) -> Restoration:
        """Return what there is: also of a run that was stopped.

        Planes that the run did not reach hold their interpolated source, and the kernel of the last
        plane it did reach.

        Raises
        ------
        ValueError
            If no step has been done, or planes are not kept.
        """
        if not self._states:
            raise ValueError("result: expected a run of at least one step that keeps its planes")
        latest = next(reversed(self._states.values()))
        for state in self.unfinished():
            if state.plane not in self._states or not self._states[state.plane].done:
                self._states[state.plane] = state
        states = [self._states.get(index) for index in self.layout.planes]
        planes = [
            self.interpolated(index) if state is None else state.image
            for index, state in zip(self.layout.planes, states, strict=True)
        ]
        kernels = [(state or latest).kernel for state in states]
        reports = tuple(None if state is None else state.report for state in states)
        complete = all(state is not None and state.done for state in states)
        stop = Stop.CANCELLED
        if complete:
            stop = Stop.DIVERGED if self._diverged else Stop.COMPLETED
        return Restoration(
            image=self.layout.assembled(planes),
            kernel=np.stack(kernels).reshape(*self.layout.looped_shape, *latest.kernel.shape),
            settings=self.settings,
            seed=self.settings.seed,
            device=str(self.device),
            seconds=self._seconds,
            stop=stop,
            history=tuple(self._history or self._search_history),
            steps=self._steps,
            known_kernel=self._kernel is not None,
            choice=self.choice,
            notes=tuple(self.notes),
            reports=reports,
            residual=joined([None if r is None else r.residual for r in reports], self.layout),
            uncertainty=joined(
                [None if r is None else r.uncertainty for r in reports], self.layout
            ),
        )

    def interpolated(self, index: Index) -> np.ndarray:
        """Return a plane as it is before the run comes to it: its source on the restored grid."""
        return self._planes.interpolated(index, self._model)

    def unfinished(self) -> States:
        """Yield what the planes at work have come to: of those restored together, states show one.

        Some of them may have been handed out as done.
        """
        running = self._running
        if running is None:
            return
        for number, index in enumerate(running.indices):
            yield Unfetched.of(
                partial(fetched, running.state, running.block, number, self.layout),
                step=self._steps,
                n_steps=self.n_steps,
                loss=running.state.loss,
                residual=running.block.scaling.range * running.state.residual,
                plane=index,
                searching=running.state.searching,
                own_step=running.state.step,
                own_steps=running.state.n_steps,
                together=len(running.indices),
            )

    def _reset(self) -> None:
        self._states: dict[Index, State[np.ndarray]] = {}
        self._diverged = False
        self._steps = 0
        self._history: list[float] = []
        self._search_history: list[float] = []
        self._seconds = 0.0
        self.notes: list[str] = []
        self._unsaid = ""
        self._running: _Running | None = None
        self._planes_left = 0
        # Steps of what is done, and probable ones of what comes after what is under way.
        self._steps_before = self._steps_after = 0
        self.n_steps = sum(self._planned(group) for group in self.groups)

    # What there is to do

    def _planned(self, group: Group) -> int:
        """Return the image steps that a group probably takes."""
        plan = self.plans.get(group.channel)
        if plan is not None:
            return len(group.blocks) * len(self._tiles.tiling) * planned_steps(self.settings, plan)
        pilot = planned_steps(self.settings, self._given) if group.piloted else 0
        return pilot + len(group.blocks) * self._likely(group.piloted)

    def _likely(self, piloted: bool) -> int:
        """Return the image steps that a block probably takes, where its plan is not known."""
        given = self._given
        if self._tiles.tiled:
            own = 0 if piloted else planned_steps(self.settings, given)
            return own + len(self._tiles.tiling) * likely_steps(self.settings, given)
        return (likely_steps if piloted else planned_steps)(self.settings, given)

    @property
    def _given(self) -> Plan | None:
        """What is known without a search."""
        return None if self._kernel is None else Plan(self._kernel)

    # Where memory runs out

    def _shrink(self) -> bool:
        """Take smaller tiles, or the CPU; False where neither is left."""
        where = f"Memory ran out on {self.device}"
        if self._tiles.halve():
            self._keep_to_tiles()
            self._say(f"{where}: tiles are now {self._tiles.side} pixels wide.")
        elif self.device.type != "cpu":
            self.device = torch.device("cpu")
            self._say(f"{where}: the run goes on on the CPU.")
        else:
            return False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def _keep_to_tiles(self) -> None:
        """Let the settings remember tiles, where they count."""
        if self._tiles.tiled:
            self.settings = replace(self.settings, tile=self._tiles.side)

    def _say(self, note: str) -> None:
        self.notes.append(note)
        self._unsaid = note

    # Doing it

    def _all(self, done: frozenset[Index]) -> States:
        groups = [group.without(done) for group in self.groups]
        self._planes_left = sum(len(block) for group in groups for block in group.blocks)
        for number, group in enumerate(groups):
            later = sum(map(self._planned, groups[number + 1 :]))
            if group.blocks and group.piloted and group.channel not in self.plans:
                self._steps_after = later + len(group.blocks) * self._likely(True)
                yield from self._find(group)
            plan = self.plans.get(group.channel) or self._given
            for position, block in enumerate(group.blocks, 1):
                each = self._likely(False)
                if group.piloted and plan is not None:
                    each = len(self._tiles.tiling) * planned_steps(self.settings, plan)
                self._steps_after = later + (len(group.blocks) - position) * each
                yield from self._restore(block, plan)

    def _find(self, group: Group) -> States:
        pilot = partial(self._pilot, group.planes, group.blocks[0][0])
        plan = yield from self._within_memory(pilot)
        self.plans[group.channel] = plan
        if plan is None:
            self._say(
                "No kernel was found that planes could share: those looked at have no contrast, or "
                "the fit diverged. Planes with contrast now have kernels of their own."
            )

    def _pilot(
        self, planes: list[Index], shown: Index
    ) -> Generator[State[np.ndarray], None, Plan | None]:
        """Find in pieces of planes what these have in common; None where there is no contrast."""
        # They take no more memory than a tile does.
        size = tuple(min(n, self._tiles.side) for n in self.layout.lr_shape)
        found = sharing.pieces(self._planes.load, planes, size, self._tiles.overlap)
        if not found:
            return self._given
        shape = tuple(found[0].shape[1:])
        model = self._model
        if shape != model.lr_shape:  # a piece does not wrap
            model = replace(model, lr_shape=shape, boundary="free")
        settings = self.settings.of_channel(self.layout.channel(shown))
        block = Block(found, settings, model, self.device)
        for state in block.run(self._given):
            # A state that held the run would be held by it, and outlive its last reference.
            fetch = partial(self._planes.unrestored, state, shown, self._model)
            scale = block.scaling.range
            yield self._state(state, fetch, shown, scale, searching=True)
        self._steps_before += planned_steps(self.settings, self._given)
        return block.plan or self._given

    def _restore(self, indices: list[Index], plan: Plan | None) -> States:
        """Restore planes together."""
        planes = {index: self._planes.mended(index) for index in indices}
        flat = [index for index, (plane, _) in planes.items() if plane.min() == plane.max()]
        planes = {index: mended for index, mended in planes.items() if index not in flat}
        if planes:
            yield from self._within_memory(partial(self._attempt, planes, plan))
        for index in flat:
            yield self._as_it_was(index, plan)

    def _within_memory(
        self, attempt: Callable[[], Generator[State[np.ndarray], None, Found]]
    ) -> Generator[State[np.ndarray], None, Found]:
        """Attempt something, and with smaller tiles again where memory runs out."""
        while True:
            try:
                return (yield from attempt())
            except (RuntimeError, MemoryError) as error:
                if not (is_out_of_memory(error) and self._shrink()):
                    raise
                self._running = None
                traceback.clear_frames(error.__traceback__)  # which hold what is too large
            self._steps_before = self._steps  # what was done in vain has been seen

    def _attempt(self, planes: dict[Index, Mended], plan: Plan | None) -> States:
        first = next(iter(planes))
        tiling = self._tiles.tiling
        if self._tiles.tiled and (plan is None or self._lacks_route(plan)):
            after = self._steps_after
            self._steps_after += len(tiling) * likely_steps(self.settings, self._given)
            try:
                plan = yield from self._pilot(list(planes), first)
            finally:
                self._steps_after = after
            if plan is None:
                self._diverged = True
                for index in planes:
                    yield self._as_it_was(index, None)
                return
        settings = self.settings.of_channel(self.layout.channel(first))
        block = Block([each.plane for each in planes.values()], settings, self._model, self.device)
        scale = block.scaling.range
        for state in block.run(plan, tiling):
            self._running = _Running(list(planes), block, state)
            fetch = partial(fetched, state, block, 0, self.layout)
            if state.stop is Stop.RUNNING:
                yield self._state(state, fetch, first, scale, together=len(planes))
        self._diverged |= state.stop is Stop.DIVERGED
        reports = block.reports(state.kernel)
        for number, (index, report) in enumerate(zip(planes, reports, strict=True)):
            yield self._state(
                state,
                partial(fetched, state, block, number, self.layout),
                index,
                scale,
                stop=self._stop(),
                report=as_seen(report, planes[index].n_lone, block.scaling, self.layout),
                done=True,
                together=len(planes),
            )
        self._running = None
        self._steps_before += len(tiling) * planned_steps(self.settings, plan)

    def _lacks_route(self, plan: Plan) -> bool:
        return plan.route is None and self.settings.method == "richardson-lucy"

    def _state(
        self,
        state: State[Tensor],
        fetch: Callable[[], tuple[np.ndarray, np.ndarray]],
        index: Index,
        scale: float,
        *,
        searching: bool = False,
        stop: Stop = Stop.RUNNING,
        report: Report | None = None,
        done: bool = False,
        together: int = 1,
    ) -> State[np.ndarray]:
        """Return a state of the run from one of a block."""
        self.n_steps = self._steps_before + state.n_steps + self._steps_after
        note, self._unsaid = self._unsaid, ""
        return Unfetched.of(
            fetch,
            step=self._steps_before + state.step,
            n_steps=self.n_steps,
            loss=state.loss,
            residual=scale * state.residual,
            stop=stop,
            plane=index,
            searching=searching or state.searching,
            report=report,
            done=done,
            note=note,
            own_step=state.step,
            own_steps=state.n_steps,
            together=together,
        )

    def _as_it_was(self, index: Index, plan: Plan | None) -> State[np.ndarray]:
        """Return the last state of a plane that is not restored, as one without contrast.

        Its kernel is that of the plan; without one, a point.
        """
        if plan is not None:
            kernel = plan.kernel
        else:
            kernel = np.zeros(self._model.kernel_shape, np.float32)
            kernel[tuple(round(middle) for middle in self._model.kernel_centre)] = 1
        # One step, for a plane that is done has a state.
        self._steps_before += 1
        self.n_steps = self._steps_before + self._steps_after
        return State(
            step=self._steps_before,
            n_steps=self.n_steps,
            image=sealed(self.interpolated(index)),
            kernel=sealed(kernel.copy()),
            loss=0.0,
            residual=0.0,
            stop=self._stop(),
            plane=index,
            done=True,
            own_step=1,
            own_steps=1,
        )

    def _stop(self) -> Stop:
        """Return the stop of the run where one more plane is done."""
        self._planes_left -= 1
        if self._planes_left:
            return Stop.RUNNING
        return Stop.DIVERGED if self._diverged else Stop.COMPLETED


@dataclass(frozen=True, eq=False)
class _Running:
    """The latest state of planes that are being restored."""

    indices: list[Index]
    block: Block
    state: State[Tensor]
