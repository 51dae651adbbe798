"""The end of a restoration: what its image lacks of the samples, and what it says twice."""

from typing import Protocol

from torch import Tensor

from napari_dkp.degradation import Degradation
from napari_dkp.engine import ImageRestorer, RestorerStep
from napari_dkp.restorers.data_step import DataStep
from napari_dkp.restorers.evidence import Evidence
from napari_dkp.restorers.nonlocal_means import nonlocal_means


class FormingRestorer(ImageRestorer, Protocol):
    """Restorer that tells what it has made."""

    def evidence(self) -> Evidence:
        """Return what there is to report on the latest estimate."""


class PolishedRestorer:
    """Lets a network form the image, and polishes that in the last steps.

    A network that is stopped early has not fitted all that the samples tell, and knows nothing of
    what is alike far apart. Polishing is half-quadratic splitting with a denoiser for a prior
    (Venkatakrishnan 2013): non-local means, less of it from step to step, and the image nearest to
    theirs that the samples allow, in closed form.

    Parameters
    ----------
    forming : restorer of the steps before.
    model : forward model of the plane.
    data : y, shape (C, *lr_shape), normalised.
    bounds : lowest and highest intensity of the image, normalised.
    first : step, from 0, at which polishing starts.
    n_steps : of all; greater than `first`.
    colours : channels that show one scene; of several, they follow one another.
    """

    def __init__(
        self,
        forming: FormingRestorer,
        model: Degradation,
        data: Tensor,
        bounds: tuple[float, float],
        first: int,
        n_steps: int,
        colours: int,
    ) -> None:
        self._forming = forming
        self._model = model
        self._data = data
        self._bounds = bounds
        self._first = first
        self._n_steps = n_steps
        self._colours = colours
        self._steps = 0
        self._kernel: Tensor | None = None
        self._image = data  # of the latest step

    def step(self, kernel: Tensor) -> RestorerStep:
        """Form or polish the image once under `kernel`, shape (*K,)."""
        self._steps += 1
        if self._steps <= self._first:
            taken = self._forming.step(kernel)
            self._image = taken.image
            return taken
        if kernel is not self._kernel:
            self._kernel = kernel
            self._data_step = DataStep(self._model, self._data, kernel)
        self._image = self._polished(self._image)
        squared = self._data_step.residual(self._image).square().mean()
        frame = self._model.crop(self._image)
        return RestorerStep(self._image, frame, squared, squared.sqrt())

    def evidence(self) -> Evidence:
        """Return what there is to report on the latest estimate; after at least one step."""
        if self._steps <= self._first:
            return self._forming.evidence()
        return Evidence(self._data - self._data_step.residual(self._image))

    def _polished(self, image: Tensor) -> Tensor:
        """Return the image on the domain, shape (C, *domain_shape), after one step more."""
        done = (self._steps - self._first - 1) / max(self._n_steps - self._first - 1, 1)
        level = _FIRST_LEVEL * (_LAST_LEVEL / _FIRST_LEVEL) ** done
        scenes = image.unflatten(0, (-1, self._colours))
        smooth = nonlocal_means(scenes, level).flatten(0, 1)
        residual = self._data_step.residual(smooth)
        return self._data_step.proximal(smooth, residual, _TRUST).clamp(*self._bounds)


# Variance of what rounding to 256 grey levels takes off a sample, relative to that of an image's
# errors. A tenth of it restores better under the true kernel, worse under those that are found.
_TRUST = 2e-3
# Differences of patches that are much alike, see `nonlocal_means`.
_FIRST_LEVEL, _LAST_LEVEL = 10 / 255, 4 / 255
