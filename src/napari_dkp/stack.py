"""Planes of an image, one after the other: a run that can be watched, and its result."""

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from napari_dkp import _checks
from napari_dkp.choice import choose
from napari_dkp.config import (
    Boundary,
    DiffusionConfig,
    DIPConfig,
    KernelFamilyName,
    Method,
    NoiseConfig,
    OpticsConfig,
    Phase,
    PKEConfig,
    Precision,
    PresetName,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
    Settings,
)
from napari_dkp.degradation import Degradation
from napari_dkp.device import resolve_device
from napari_dkp.diffusion import loading
from napari_dkp.noise import of_plane as noise_of
from napari_dkp.plane import fit, search_rounds
from napari_dkp.report import Report
from napari_dkp.state import Restoration, State, Stop, Unfetched


class Run:
    """A restoration that can be watched, stopped, and asked for its result.

    Everything is checked here, before any work. Iterate to run; each state is one image step of one
    plane. Stop by not iterating further, then ask for `result`.

    Parameters
    ----------
    image : array with axes as in `settings.axes`; dask and zarr arrays are read plane by plane.
    settings : see `Settings`; None fields are resolved here.
    kernel : known PSF in HR pixels, shape (K, K); the run is then non-blind.

    Attributes
    ----------
    settings : resolved settings, axes filled in.
    choice : in words, what "auto" took for this image and why; empty where nothing was "auto".
    device : torch.device in use.
    n_planes, n_steps : planes, and image steps over all of them.

    Raises
    ------
    TypeError, ValueError
        If the image, the kernel or a setting cannot be used; the message names it.
    """

    def __init__(self, image: Any, settings: Settings, kernel: np.ndarray | None = None) -> None:
        image = _as_array(image)
        _checks.real_dtype("image", np.dtype(image.dtype))
        axes = settings.axes or guess_axes(image.shape)
        _checks.axes("axes", axes, len(image.shape))
        if 0 in image.shape:
            raise ValueError(f"image: expected at least one pixel; got shape {tuple(image.shape)}")
        self.device = resolve_device(settings.device)
        self._image = image
        if not set(settings.spatial) <= set(axes):
            raise ValueError(f"axes: expected Z among them with volume=True; got {axes!r}")
        loops = [letter for letter in "TZ" if letter not in settings.spatial]
        self._spatial = tuple(axes.index(letter) for letter in settings.spatial)
        self._looped = tuple(axes.index(letter) for letter in axes if letter in loops)
        plane_axes = [letter for letter in axes if letter not in loops]
        # Where C (if any) and the spatial axes are in a plane, or in a volume.
        letters = "C" + settings.spatial
        self._order = [plane_axes.index(letter) for letter in letters if letter in plane_axes]
        shape = tuple(image.shape[axis] for axis in self._looped)
        self._planes = list(np.ndindex(*shape))
        self.n_planes = len(self._planes)
        self._check_values(image)
        choice = choose(
            partial(self._sample, tuple(n // 2 for n in shape)),
            replace(settings, axes=axes),
            known_kernel=kernel is not None,
        )
        self.choice = choice.reason
        self.settings = choice.settings.resolve()
        if self.settings.method == "diffusion" and self.settings.diffusion:
            loading.check(self.settings.diffusion)
        self._scales = self.settings.scales(len(self._spatial))
        self._kernel: np.ndarray | None = None
        if kernel is not None:
            self._kernel = _checks.psf("kernel", _as_array(kernel), len(self._spatial))
        lr_shape = tuple(image.shape[axis] for axis in self._spatial)
        sizes = self.settings.kernel_sizes(len(self._spatial))
        if self.settings.volume and self.settings.kernel_size is None:
            sizes = tuple(
                min(taps, _largest_odd(s * n))
                for taps, s, n in zip(sizes, self._scales, lr_shape, strict=True)
            )
        self._model = Degradation(
            lr_shape,
            self._scales,
            sizes if self._kernel is None else self._kernel.shape,
            self.settings.phase,
            self.settings.boundary,
        )
        _checks.not_smaller_than_kernel("image", lr_shape, self._scales, self._model.kernel_shape)
        rounds = [] if kernel is not None else search_rounds(self.settings)
        search_steps = sum(each.steps for each in rounds)
        self._steps_per_plane = search_steps + (self.settings.iterations or 0)
        self.n_steps = self.n_planes * self._steps_per_plane
        self._states: dict[tuple[int, ...], State[np.ndarray]] = {}
        self._diverged = False
        self._steps = 0
        self._history: list[float] = []
        self._search_history: list[float] = []
        self._seconds = 0.0

    def __iter__(self) -> Generator[State[np.ndarray], None, None]:
        """Run from the start; yield a state per image step."""
        self._states.clear()
        self._history.clear()
        self._search_history.clear()
        self._diverged = False
        began = perf_counter()
        for number, index in enumerate(self._planes):
            plane = self._read(index)
            _checks.finite(f"image, plane {index}", plane)
            _checks.within_float32("image", plane)
            for state in self._restore_plane(plane, index, number):
                self._states[index] = state
                history = self._search_history if state.searching else self._history
                history.append(state.residual)
                self._steps = state.step
                self._seconds = perf_counter() - began
                yield state
            self._states[index] = replace(state)  # which fetches its arrays

    def result(self) -> Restoration:
        """Return what there is: also of a run that was stopped.

        Planes that the run did not reach hold their interpolated source, and the kernel of the last
        plane it did reach.

        Raises
        ------
        ValueError
            If no step has been done.
        """
        if not self._states:
            raise ValueError("result: expected a run of at least one step; got none")
        latest = next(reversed(self._states.values()))
        planes = []
        kernels = []
        for index in self._planes:
            state = self._states.get(index)
            planes.append(self._interpolated(index) if state is None else state.image)
            kernels.append((state or latest).kernel)
        reports = tuple(
            None if index not in self._states else self._states[index].report
            for index in self._planes
        )
        looped = tuple(self._image.shape[axis] for axis in self._looped)
        complete = len(self._states) == self.n_planes and latest.stop is not Stop.RUNNING
        stop = Stop.CANCELLED
        if complete:
            stop = Stop.DIVERGED if self._diverged else Stop.COMPLETED
        return Restoration(
            image=self._along_loops(planes),
            kernel=np.stack(kernels).reshape(*looped, *latest.kernel.shape),
            settings=self.settings,
            seed=self.settings.seed,
            device=str(self.device),
            seconds=self._seconds,
            stop=stop,
            history=tuple(self._history or self._search_history),
            steps=self._steps,
            known_kernel=self._kernel is not None,
            choice=self.choice,
            reports=reports,
            residual=self._map([None if report is None else report.residual for report in reports]),
            uncertainty=self._map(
                [None if report is None else report.uncertainty for report in reports]
            ),
        )

    def _along_loops(self, planes: list[np.ndarray]) -> np.ndarray:
        """Put one array per plane where the input has its planes."""
        looped = tuple(self._image.shape[axis] for axis in self._looped)
        image = np.stack(planes).reshape(*looped, *planes[0].shape)
        return np.ascontiguousarray(np.moveaxis(image, range(len(looped)), self._looped))

    def _map(self, planes: list[np.ndarray | None]) -> np.ndarray | None:
        """Put what some planes have where the input has its planes."""
        present = [plane for plane in planes if plane is not None]
        if not present:
            return None
        empty = np.full_like(present[0], np.nan)
        return self._along_loops([empty if plane is None else plane for plane in planes])

    def _check_values(self, image: Any) -> None:
        """Check arrays in memory and single planes now; lazy planes are when they are read."""
        if isinstance(image, np.ndarray):
            _checks.finite("image", image)
        if self.n_planes == 1:
            plane = self._read(self._planes[0])
            _checks.finite("image", plane)
            _checks.varying("image", plane)
            _checks.within_float32("image", plane)

    def _restore_plane(
        self, plane: np.ndarray, index: tuple[int, ...], number: int
    ) -> Generator[State[np.ndarray], None, None]:
        """Restore one plane of shape (C, h, w); yield states of the run in intensity units."""
        done = number * self._steps_per_plane
        if plane.min() == plane.max():
            yield self._empty(index, number)
            return
        scaling = _Scaling.of(plane)
        data = torch.from_numpy(scaling.normalise(plane)).to(self.device)
        own_noise = noise_of(plane, self.settings.noise).rescaled(scaling.low, scaling.range)
        for state in fit(self._model, data, scaling.bounds, own_noise, self.settings, self._kernel):
            yield Unfetched.of(
                partial(_fetched, state, scaling, self._order),
                step=done + state.step,
                n_steps=self.n_steps,
                loss=state.loss,
                residual=scaling.range * state.residual,
                stop=self._stop(state.stop, number),
                plane=index,
                searching=state.searching,
                report=_as_seen(state.report, scaling, self._order),
            )

    def _stop(self, stop: Stop, number: int) -> Stop:
        """Return the stop of the run where that of a plane is `stop`."""
        self._diverged |= stop is Stop.DIVERGED
        if number < self.n_planes - 1:
            return Stop.RUNNING
        return Stop.DIVERGED if self._diverged and stop is Stop.COMPLETED else stop

    def _sample(self, index: tuple[int, ...]) -> np.ndarray:
        """Load one plane that others are judged by."""
        plane = self._read(index)
        _checks.finite(f"image, plane {index}", plane)
        _checks.within_float32("image", plane)
        return plane

    def _read(self, index: tuple[int, ...]) -> np.ndarray:
        """Load one plane in its own type, shape (C, h, w)."""
        where: list[int | slice] = [slice(None)] * len(self._image.shape)
        for axis, position in zip(self._looped, index, strict=True):
            where[axis] = position
        plane = np.asarray(self._image[tuple(where)]).transpose(self._order)
        return plane if plane.ndim > len(self._spatial) else plane[None]

    def _interpolated(self, index: tuple[int, ...]) -> np.ndarray:
        """Return a plane's source on the HR grid, zero where the source is not finite."""
        plane = np.nan_to_num(self._read(index).astype(np.float32), posinf=0.0, neginf=0.0)
        return _as_read(self._model.upsample(torch.from_numpy(plane)).numpy(), self._order)

    def _empty(self, index: tuple[int, ...], number: int) -> State[np.ndarray]:
        """Return the last state of a plane without contrast: nothing to do, no kernel to find."""
        kernel = self._kernel
        if kernel is None:
            kernel = np.zeros(self._model.kernel_shape, np.float32)
            kernel[tuple(round(middle) for middle in self._model.kernel_centre)] = 1
        return State(
            step=(number + 1) * self._steps_per_plane,
            n_steps=self.n_steps,
            image=_sealed(self._interpolated(index)),
            kernel=_sealed(kernel.copy()),
            loss=0.0,
            residual=0.0,
            stop=self._stop(Stop.COMPLETED, number),
            plane=index,
        )


@dataclass(frozen=True)
class _Scaling:
    """The affine map between an image's intensity units and those of the engine.

    The data spans [0, 1]; an untrained network's image may leave that range within `bounds`: what
    is small is brighter before the blur, but nothing passes the limits of an integer type. Counted
    photons have no upper bound.
    """

    low: float
    range: float
    bounds: tuple[float, float]

    @classmethod
    def of(cls, plane: np.ndarray) -> "_Scaling":
        low, high = float(plane.min()), float(plane.max())
        span = high - low
        floor, ceiling = low - _ROOM_BELOW * span, high + _ROOM_ABOVE * span
        if plane.dtype.kind in "iu":
            limits = np.iinfo(plane.dtype)
            floor, ceiling = max(floor, float(limits.min)), min(ceiling, float(limits.max))
        return cls(low, span, ((floor - low) / span, (ceiling - low) / span))

    def normalise(self, plane: np.ndarray) -> np.ndarray:
        return ((plane.astype(np.float64) - self.low) / self.range).astype(np.float32)

    def restore(self, plane: np.ndarray) -> np.ndarray:
        return (plane.astype(np.float64) * self.range + self.low).astype(np.float32)


# Shares of the data's range by which the restored image may go beyond it.
_ROOM_BELOW = 0.1
_ROOM_ABOVE = 0.5


def iter_restore(
    image: Any,
    *,
    scale: int | tuple[int, ...] = 2,
    axes: str | None = None,
    volume: bool = False,
    method: Method = "auto",
    kernel_family: KernelFamilyName = "auto",
    kernel_size: int | tuple[int, ...] | None = None,
    kernel: np.ndarray | None = None,
    preset: PresetName = "balanced",
    iterations: int | None = None,
    phase: Phase = "area",
    boundary: Boundary = "free",
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 0,
    diagnostics: bool = False,
    optics: OpticsConfig | None = None,
    noise: NoiseConfig | None = None,
    rks: RKSConfig | None = None,
    pke: PKEConfig | None = None,
    search: SearchConfig | None = None,
    dip: DIPConfig | None = None,
    diffusion: DiffusionConfig | None = None,
    richardson_lucy: RichardsonLucyConfig | None = None,
) -> Iterator[State[np.ndarray]]:
    """Restore an image step by step: see every state, stop when satisfied.

    Parameters
    ----------
    image : numpy, dask, zarr or torch array of integers or floats.
    kernel : known PSF in HR pixels, shape (K, K); None finds it.
    scale, axes, volume, method, kernel_family, kernel_size, preset, iterations, phase, boundary, \
device, precision, seed, diagnostics, optics, noise, rks, pke, search, dip, diffusion, \
richardson_lucy : as of `Settings`.

    Returns
    -------
    Iterator of `State`, one per image step. Arguments are checked at the call, not at the first
    step. Its memory goes when it ends, is closed, or is let go of.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used; the message names it.

    Examples
    --------
    >>> for state in iter_restore(image, scale=2):  # doctest: +SKIP
    ...     if state.residual < noise:
    ...         break
    """
    settings = Settings(
        scale=scale,
        axes=axes,
        volume=volume,
        method=method,
        kernel_family=kernel_family,
        kernel_size=kernel_size,
        preset=preset,
        iterations=iterations,
        phase=phase,
        boundary=boundary,
        device=device,
        precision=precision,
        seed=seed,
        diagnostics=diagnostics,
        optics=optics,
        noise=noise,
        rks=rks,
        pke=pke,
        search=search,
        dip=dip,
        diffusion=diffusion,
        richardson_lucy=richardson_lucy,
    )
    return iter(Run(image, settings, kernel))


def restore(
    image: Any,
    *,
    kernel: np.ndarray | None = None,
    progress: bool | Callable[[State[np.ndarray]], object] = False,
    **settings: Any,
) -> Restoration:
    """Restore an image: find the sharp image and the blur kernel that make it.

    Parameters
    ----------
    image : numpy, dask, zarr or torch array of integers or floats.
    kernel : known PSF in HR pixels, shape (K, K); None finds it.
    progress : True shows a bar; a function is called with every state.
    **settings : fields of `Settings`, e.g. ``scale=2, preset="fast"``.

    Returns
    -------
    Restoration
        Image in the input's intensity units, kernel, and what is needed to repeat the run.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used; the message names it.
    """
    run = Run(image, Settings(**settings), kernel)
    # Else a traceback that is kept would keep the run, and with it its memory.
    with closing(iter(run)) as states:
        if callable(progress):
            for state in states:
                progress(state)
        else:
            for _ in tqdm(states, total=run.n_steps, unit="step", disable=not progress):
                pass
    return run.result()


def _spell_out(function: Callable[..., object], like: Callable[..., object]) -> None:
    """Show the keywords of `like` in place of a function's **settings, to help() and completion."""
    own = inspect.signature(function)
    shown = dict(inspect.signature(like).parameters)
    for parameter in own.parameters.values():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            shown.setdefault(parameter.name, parameter)
    vars(function)["__signature__"] = own.replace(parameters=list(shown.values()))


_spell_out(restore, like=iter_restore)


def guess_axes(shape: Sequence[int]) -> str:
    """Return the axes of an image of this shape, channels only where they look like RGB(A).

    Raises
    ------
    ValueError
        If the shape has fewer than two or more than five axes.
    """
    if len(shape) == 3 and shape[-1] in (3, 4) and min(shape[:2]) > 30:
        return "YXC"
    names = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}
    if len(shape) not in names:
        raise ValueError(f"image: expected 2 to 5 axes; got {len(shape)}, shape {tuple(shape)}")
    return names[len(shape)]


def _fetched(
    state: State[Tensor], scaling: _Scaling, order: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring image and kernel of a plane's state to the host, as users see them."""
    image = _as_read(scaling.restore(state.image.cpu().numpy()), order)
    return _sealed(image), _sealed(state.kernel.cpu().numpy().copy())


def _as_seen(report: Report | None, scaling: _Scaling, order: list[int]) -> Report | None:
    """Give the images of a report the axes, and the unit, that users know."""
    if report is None:
        return None
    residual, uncertainty = report.residual, report.uncertainty
    return replace(
        report,
        residual=None if residual is None else _as_read(residual, order),
        uncertainty=None if uncertainty is None else _as_read(scaling.range * uncertainty, order),
    )


def _as_read(plane: np.ndarray, order: list[int]) -> np.ndarray:
    """Put the axes of a plane (C, sh, sw) where its input has C (if any), Y and X."""
    plane = plane if len(order) == plane.ndim else plane[0]
    return plane.transpose(np.argsort(order))


def _largest_odd(n: int) -> int:
    return n - (n + 1) % 2


def _sealed(array: np.ndarray) -> np.ndarray:
    """Make what is handed out read-only: the run goes on from it."""
    array.flags.writeable = False
    return array


def _as_array(image: Any) -> Any:
    """Return something with shape, dtype and slicing; lazy arrays stay lazy."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        return (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    if all(hasattr(image, name) for name in ("shape", "dtype", "__getitem__")):
        return image
    return np.asarray(image)
