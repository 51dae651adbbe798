"""What an image restorer knows of its latest estimate besides the image."""

from typing import NamedTuple

from torch import Tensor


class Halves(NamedTuple):
    """What was made of the two halves of the photons.

    Attributes
    ----------
    images : restored from the one and the other, each as bright as their mean, the estimate, in
        normalised intensity, shape (2, C, *hr_shape).
    means : A x + background of each half, in its own counts, shape (2, C, *lr_shape).
    photons : the halves, in counts, same shape.
    """

    images: Tensor
    means: Tensor
    photons: Tensor


class Evidence(NamedTuple):
    """What a report is made from.

    Attributes
    ----------
    mean : A x of the estimate, what it would be seen as without noise, in normalised intensity,
        shape (C, *lr_shape).
    halves : None where photons are not dealt.
    deviation : standard deviation of each value of the estimate over images that were drawn, in
        normalised intensity, shape (C, *hr_shape); None where one is drawn, or none.
    """

    mean: Tensor
    halves: Halves | None = None
    deviation: Tensor | None = None

    def of(self, channels: slice) -> "Evidence":
        """Return what there is on some channels."""
        halves = self.halves and Halves(*(values[:, channels] for values in self.halves))
        deviation = None if self.deviation is None else self.deviation[channels]
        return Evidence(self.mean[channels], halves, deviation)
