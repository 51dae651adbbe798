"""The photons of a plane, dealt to two halves: what is noise in the one is not in the other."""

from copy import copy
from types import EllipsisType

import torch
from torch import Generator, Tensor

from napari_dkp.degradation import Degradation
from napari_dkp.engine import RestorerStep
from napari_dkp.noise import Noise, local_mean, split
from napari_dkp.restorers.candidate import Candidate
from napari_dkp.restorers.deviance import LEAST_COUNTS
from napari_dkp.restorers.evidence import Evidence, Halves


class PhotonHalves:
    """The halves of one LR plane.

    Parameters
    ----------
    model : forward model of the plane.
    data : y in normalised intensity, shape (C, *lr_shape).
    noise : of that data.
    generator : CPU generator that deals the photons.

    Attributes
    ----------
    counts : n, whole numbers, shape (2, C, *lr_shape).
    background : counts that no light of the image makes, per half, a scalar.
    level : mean counts over the background, per half, a scalar.
    """

    def __init__(
        self, model: Degradation, data: Tensor, noise: Noise, generator: Generator
    ) -> None:
        self._model = model
        self._noise = noise
        whole = noise.counts(data)
        self.counts = split(whole, generator)
        # Darkness lies lower in the counts than any pixel does: the least of means over pixels.
        self.background = 0.5 * _darkest(whole)
        self.level = (self.counts.mean() - self.background).clamp_min(LEAST_COUNTS)

    def within(
        self, model: Degradation, window: tuple[slice, ...], device: torch.device
    ) -> "PhotonHalves":
        """Return the halves of a piece; what is estimated of the whole stays.

        Parameters
        ----------
        model : forward model of the piece.
        window : its samples.
        device : to put them on.
        """
        piece = copy(self)
        piece._model = model  # noqa: SLF001
        samples: tuple[EllipsisType | slice, ...] = (..., *window)
        piece.counts = self.counts[samples].to(device)
        piece.background = self.background.to(device)
        piece.level = self.level.to(device)
        return piece

    def handed_out(self, latest: Candidate, best: Candidate, done: bool) -> RestorerStep:
        """Return a step that leads to one candidate, while another is the best so far."""
        return RestorerStep(
            self.estimate(latest.images),
            self._model.crop(self.estimate(best.images)),
            latest.images.new_tensor(latest.risk),
            self.residual(best.means),
            done,
        )

    def estimate(self, images: Tensor) -> Tensor:
        """Return the image of all photons in normalised intensity, shape (C, *domain_shape).

        Parameters
        ----------
        images : of each half, over the background, in counts, shape (2, C, *domain_shape).
        """
        return self._noise.intensity(images.sum(0) + 2 * self.background)

    def evidence(self, images: Tensor, means: Tensor) -> Evidence:
        """Return what there is to report; `images` as of `estimate`, `means` as of `residual`."""
        each = [self.estimate(image.expand_as(images)) for image in images]
        mean = self._noise.intensity(means.sum(0))
        return Evidence(mean, Halves(self._model.crop(torch.stack(each)), means, self.counts))

    def residual(self, means: Tensor) -> Tensor:
        """Return the root mean square of y - A x in normalised intensity, a scalar.

        Parameters
        ----------
        means : m of each half's image, shape (2, C, *lr_shape).
        """
        return self._noise.gain * (means.sum(0) - self.counts.sum(0)).square().mean().sqrt()


def _darkest(counts: Tensor) -> Tensor:
    """Return what the darkest thousandth of an image, smoothed over pixels, lies at."""
    smooth = local_mean(counts)
    place = max(1, round(_DARK_SHARE * smooth.numel()))
    return smooth.flatten().kthvalue(place).values


_DARK_SHARE = 1e-3
