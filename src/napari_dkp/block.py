"""Planes that are restored at once, as channels that share one kernel, whole or in tiles."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from napari_dkp.config import Settings
from napari_dkp.degradation import Degradation
from napari_dkp.engine import StateGenerator
from napari_dkp.intensity import Scaling
from napari_dkp.noise import of_plane as noise_of
from napari_dkp.parts import Parts
from napari_dkp.plan import Plan
from napari_dkp.plane import fit
from napari_dkp.randomness import make_generator
from napari_dkp.report import Report, examine
from napari_dkp.restorers.evidence import Evidence, Halves
from napari_dkp.restorers.photon_halves import PhotonHalves
from napari_dkp.schedule import planned_steps
from napari_dkp.state import Stop
from napari_dkp.tiling import Tile, Tiling


class Block:
    """Planes of one shape and type, restored at once.

    Parameters
    ----------
    planes : in their own units, each of shape (C, *lr_shape).
    settings : resolved settings.
    model : forward model of a plane.
    device : to work on.

    Attributes
    ----------
    scaling : from the planes' units to those of the engine; the same for all.
    plan : what planes alike can be restored by; None until these are.
    """

    def __init__(
        self,
        planes: Sequence[np.ndarray],
        settings: Settings,
        model: Degradation,
        device: torch.device,
    ) -> None:
        self.scaling = Scaling.of(planes)
        self.plan: Plan | None = None
        self._settings = settings
        self._model = model
        self._device = device
        self._n_planes = len(planes)
        stacked = np.concatenate(planes)
        self._data = torch.from_numpy(self.scaling.normalise(stacked))
        noise = noise_of(stacked, settings.noise)
        self._noise = noise.rescaled(self.scaling.low, self.scaling.range)
        self._evidence: Evidence | None = None

    def run(self, plan: Plan | None, tiling: Tiling | None = None) -> StateGenerator[Tensor]:
        """Restore the planes.

        Parameters
        ----------
        plan : what is known before; None for a blind run, which tiles do not have.
        tiling : of a plane; None restores it whole.

        Yields
        ------
        A state per image step, with the image of all planes, shape (P C, *hr_shape).
        """
        if tiling is None or len(tiling) == 1:
            parts = self._parts(self._model, self._data, plan)
            yield from fit(parts)
            self.plan, self._evidence = parts.plan, parts.evidence
        else:
            if plan is None:
                raise ValueError("plan: expected one for tiles; got None")
            yield from self._run_tiles(plan, tiling)

    def reports(self, kernel: Tensor) -> list[Report | None]:
        """Return one report per plane; None where the restoration is not complete."""
        if self._evidence is None:
            return [None] * self._n_planes
        size = len(self._data) // self._n_planes
        own = (slice(i * size, (i + 1) * size) for i in range(self._n_planes))
        return [self._report(channels, kernel) for channels in own]

    def of_plane(self, number: int, images: Tensor) -> Tensor:
        """Return what belongs to one of the planes, of values of all, shape (P C, ...)."""
        size = len(self._data) // self._n_planes
        return images[number * size : (number + 1) * size]

    def _report(self, channels: slice, kernel: Tensor) -> Report:
        assert self._evidence is not None
        return examine(
            self._data[channels],
            self._evidence.of(channels),
            self._noise,
            kernel,
            width_spread=self.plan.width_spread if self.plan else None,
            maps=self._settings.diagnostics,
        )

    def _parts(
        self,
        model: Degradation,
        data: Tensor,
        plan: Plan | None,
        halves: PhotonHalves | None = None,
    ) -> Parts:
        data = data.to(self._device)
        bounds = self.scaling.bounds
        colours = len(self._data) // self._n_planes
        return Parts(model, data, bounds, self._noise, self._settings, plan, halves, colours)

    def _run_tiles(self, plan: Plan, tiling: Tiling) -> StateGenerator[Tensor]:
        """Restore tile after tile; what is not yet restored is shown interpolated."""
        each = planned_steps(self._settings, plan)
        n_steps = len(tiling) * each
        canvas = self._model.upsample(self._data)
        collected = _Collected(self._model)
        dealt = self._deal()
        for number, tile in enumerate(tiling):
            data = self._data[(slice(None), *tile.window)]
            model = replace(self._model, lr_shape=tuple(data.shape[1:]), boundary="free")
            halves = dealt and dealt.within(model, tile.window, self._device)
            parts = self._parts(model, data, plan, halves)
            for state in fit(parts):
                stop, image = Stop.RUNNING, canvas
                if state.stop is not Stop.RUNNING:
                    before = model.upsample(data)
                    canvas = image = canvas.clone()
                    tile.add(canvas, state.image.to(canvas) - before, model.scale)
                    if parts.evidence is not None:
                        collected.add(tile, parts.evidence)
                    last = number == len(tiling) - 1
                    diverged = state.stop is Stop.DIVERGED
                    stop = Stop.DIVERGED if diverged else Stop.COMPLETED if last else stop
                yield replace(
                    state,
                    step=number * each + state.step,
                    n_steps=n_steps,
                    image=image,
                    stop=stop,
                )
                if stop is Stop.DIVERGED:
                    return
        self.plan, self._evidence = plan, collected.evidence(dealt)

    def _deal(self) -> PhotonHalves | None:
        """Deal the photons of whole planes, so that tiles share what they share."""
        if self._settings.method != "richardson-lucy":
            return None
        generator = make_generator(self._settings.seed)
        return PhotonHalves(self._model, self._data, self._noise, generator)


class _Collected:
    """The evidence of tiles, joined as their images are.

    Parameters
    ----------
    model : forward model of the plane.
    """

    def __init__(self, model: Degradation) -> None:
        self._model = model
        self._canvases: dict[str, Tensor] = {}

    def add(self, tile: Tile, evidence: Evidence) -> None:
        """Add that of a tile."""
        samples = (1,) * self._model.ndim
        self._put(tile, "mean", evidence.mean, samples)
        if evidence.halves is not None:
            self._put(tile, "images", evidence.halves.images, self._model.scale)
            self._put(tile, "means", evidence.halves.means, samples)
        if evidence.deviation is not None:
            self._put(tile, "deviation", evidence.deviation, self._model.scale)

    def evidence(self, dealt: PhotonHalves | None) -> Evidence:
        """Return that of the plane; after all tiles."""
        halves = None
        if dealt is not None:
            halves = Halves(self._canvases["images"], self._canvases["means"], dealt.counts)
        return Evidence(self._canvases["mean"], halves, self._canvases.get("deviation"))

    def _put(self, tile: Tile, name: str, values: Tensor, scale: tuple[int, ...]) -> None:
        if name not in self._canvases:
            shape = (s * n for s, n in zip(scale, self._model.lr_shape, strict=True))
            batch = values.shape[: -self._model.ndim]
            self._canvases[name] = torch.zeros(*batch, *shape)
        tile.add(self._canvases[name], values, scale)
