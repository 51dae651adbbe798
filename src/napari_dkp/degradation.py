"""The forward model y = (x * k)↓s + n and its adjoint (eq. 1).

Coordinates. The HR frame has s pixels per LR pixel. LR pixel j is a sample of the blurred image
at the HR coordinate s j + (s - 1)/2 (phase "area": the middle of the s pixels it covers) or
s j - (s - 1)/2 (phase "fkp": the published benchmark, whose kernels carry that offset inside
their array). Where s and the number of taps differ in parity, the area grid falls between HR
pixels and the sample is the mean of the two nearest along that axis.

Domain. With boundary "circular" the image lives on the frame and wraps. With boundary "free" it
lives on the frame plus every pixel beyond it that reaches an LR sample, so that no value past the
border is invented. Operators act on tensors over the domain; `crop` cuts the frame out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from types import EllipsisType

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from napari_dkp import _checks
from napari_dkp.config import BOUNDARIES, MAX_SCALE, PHASES, Boundary, Phase
from napari_dkp.gram import GramStatistics


@dataclass(frozen=True)
class Degradation:
    """Blur by a kernel and decimation by a scale, on trailing spatial axes.

    Parameters
    ----------
    lr_shape : LR samples per spatial axis.
    scale : HR pixels per LR sample, per spatial axis.
    kernel_shape : taps per spatial axis.
    phase, boundary : see the module's docstring.
    """

    lr_shape: tuple[int, ...]
    scale: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    phase: Phase = "area"
    boundary: Boundary = "free"

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.lr_shape)

    @cached_property
    def hr_shape(self) -> tuple[int, ...]:
        """Shape of the HR frame."""
        return tuple(s * n for s, n in zip(self.scale, self.lr_shape, strict=True))

    @cached_property
    def kernel_centre(self) -> tuple[float, ...]:
        """Centroid, in taps, at which a kernel leaves the image where the data is."""
        if self.phase == "area":
            return tuple(0.5 * (k - 1) for k in self.kernel_shape)
        return tuple(
            (k - 1) // 2 + 0.5 * (s - 1) for k, s in zip(self.kernel_shape, self.scale, strict=True)
        )

    @cached_property
    def domain_shape(self) -> tuple[int, ...]:
        """Shape of the tensors that `forward` takes."""
        return tuple(
            low + n + high
            for low, n, high in zip(self._before, self.hr_shape, self._after, strict=True)
        )

    @cached_property
    def grid_shape(self) -> tuple[int, ...]:
        """Shape of the grid of the Fourier transform: the domain first, then what pads it.

        Sites one scale apart tile it.
        """
        if self.boundary == "circular":
            return self.domain_shape
        return tuple(
            s * int(next_fast_len(ceil(n / s), real=True))
            for n, s in zip(self.domain_shape, self.scale, strict=True)
        )

    def crop(self, image: Tensor) -> Tensor:
        """Return the HR frame of an image on the domain, shape (..., *hr_shape)."""
        return _window(image, self._before, self.hr_shape)

    def upsample(self, data: Tensor) -> Tensor:
        """Return LR samples (..., *lr_shape), linearly interpolated at the HR frame's pixels."""
        for axis, n, s in zip(self._axes, self.lr_shape, self.scale, strict=True):
            first = 0.5 * (s - 1) if self.phase == "area" else -0.5 * (s - 1)
            place = (torch.arange(s * n, device=data.device, dtype=data.dtype) - first) / s
            place = place.clamp(0, n - 1)
            low = place.floor().long().clamp_max(max(n - 2, 0))
            high = (low + 1).clamp_max(n - 1)
            share = (place - low).reshape(-1, *(1,) * (-1 - axis))
            data = torch.lerp(data.index_select(axis, low), data.index_select(axis, high), share)
        return data

    def extend(self, frame: Tensor) -> Tensor:
        """Return an image on the domain that continues an HR frame by mirroring it."""
        for axis, before, n, after in zip(
            self._axes, self._before, self.hr_shape, self._after, strict=True
        ):
            # Half-sample symmetric: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
            index = torch.arange(-before, n + after, device=frame.device) % (2 * n)
            frame = frame.index_select(axis, torch.minimum(index, 2 * n - 1 - index))
        return frame

    def forward(self, image: Tensor, kernel: Tensor) -> Tensor:
        """Return A x: (..., *domain_shape) blurred and decimated to (..., *lr_shape)."""
        return self.forward_by(self.transfer(kernel), image)

    def forward_by(self, transfer: Tensor, image: Tensor) -> Tensor:
        """Return A x for the kernel of this `transfer`, which may serve many images."""
        spectrum = torch.fft.rfftn(image, s=self.grid_shape, dim=self._axes) * transfer
        blurred: Tensor = torch.fft.irfftn(spectrum, s=self.grid_shape, dim=self._axes)
        return self.gather(blurred)

    def adjoint(self, residual: Tensor, kernel: Tensor) -> Tensor:
        """Return A^T r: (..., *lr_shape) to (..., *domain_shape)."""
        return self.adjoint_by(self.transfer(kernel), residual)

    def adjoint_by(self, transfer: Tensor, residual: Tensor) -> Tensor:
        """Return A^T r for the kernel of this `transfer`, which may serve many residuals."""
        spectrum = torch.fft.rfftn(self.scatter(residual), dim=self._axes) * transfer.conj()
        image = torch.fft.irfftn(spectrum, s=self.grid_shape, dim=self._axes)
        return _window(image, (0,) * self.ndim, self.domain_shape)

    def scatter(self, samples: Tensor) -> Tensor:
        """Return samples (..., *lr_shape) on the grid of the transform, zero between them."""
        grid = samples.new_zeros(*samples.shape[: -self.ndim], *self.grid_shape)
        grid[self._sites] = samples
        return grid

    def gather(self, grid: Tensor) -> Tensor:
        """Undo `scatter`."""
        return grid[self._sites]

    def transfer(self, kernel: Tensor) -> Tensor:
        """Return the transfer function of a kernel; the grid's offset puts sample 0 at index 0."""
        kernel = self._between_pixels(kernel)
        for axis, n in zip(self._axes, self.grid_shape, strict=True):
            kernel = _wrapped(kernel, axis, n)
        offset = [
            -(first + before + reach - 1)
            for first, before, reach in zip(self._first, self._before, self._reach, strict=True)
        ]
        transfer: Tensor = torch.fft.rfftn(torch.roll(kernel, offset, self._axes))
        return transfer

    @property
    def lattice_shape(self) -> tuple[int, ...]:
        """Number of sites, one scale apart, that tile the grid; those of samples come first."""
        return tuple(n // s for n, s in zip(self.grid_shape, self.scale, strict=True))

    def sampled_power(self, transfer: Tensor) -> Tensor:
        """Return the eigenvalues of A Aᵀ, were there samples at all sites of the grid.

        It convolves samples with the kernel's autocorrelation, decimated.

        Returns
        -------
        Real tensor, shape of a real transform over `lattice_shape`.
        """
        correlation = torch.fft.irfftn(transfer.abs().square(), s=self.grid_shape, dim=self._axes)
        steps = (slice(None, None, s) for s in self.scale)
        sites: tuple[EllipsisType | slice, ...] = (..., *steps)
        power: Tensor = torch.fft.rfftn(correlation[sites], dim=self._axes).real
        return power

    def passband(self, kernel: Tensor) -> Tensor:
        """Return the power that a kernel passes of each frequency that samples can tell.

        Returns
        -------
        Tensor, shape of a real transform over samples.
        """
        kernel = self._between_pixels(kernel)
        for axis, n in zip(self._axes, self.hr_shape, strict=True):
            kernel = _wrapped(kernel, axis, n)
        power: Tensor = torch.fft.fftn(kernel).abs().square()
        # Those of the HR frame that lie below the samples' limit.
        for axis, n, hr in zip(self._axes[:-1], self.lr_shape, self.hr_shape, strict=False):
            low = torch.arange(n, device=kernel.device)
            low = torch.where(low < (n + 1) // 2, low, low - n) % hr
            power = power.index_select(axis, low)
        return power[..., : self.lr_shape[-1] // 2 + 1]

    def statistics(
        self,
        image: Tensor,
        data: Tensor,
        max_sites: int | None = None,
        whitened: bool = False,
        weights: Tensor | None = None,
    ) -> "GramStatistics":
        """Return the statistics in which the misfit of any kernel is a quadratic form.

        Parameters
        ----------
        image : shape (..., *domain_shape).
        data : LR samples y, shape (..., *lr_shape).
        max_sites : use a regular lattice of at most about so many LR sites; None uses all.
        whitened : measure the Laplacian of the residual over LR samples. The residual of an
            unfinished image is smooth; its Laplacian is nearly white, as a likelihood takes it to
            be. Samples on the rim of the plane are left out.
        weights : of the squared residual at each sample, shape of `data`; None for ones. They go
            with no whitening.
        """
        if whitened and weights is not None:
            raise ValueError("weights: expected None with whitened=True; got some")
        image = self._interpolate(image.detach())
        image = image.reshape(-1, *image.shape[-self.ndim :])
        data = data.detach().reshape(-1, *self.lr_shape)
        thin = 1
        if max_sites is not None:
            thin = ceil((data[0].numel() / max_sites) ** (1 / self.ndim))
        for axis in range(self.ndim):
            image = self._support(image, axis)
        if whitened:
            # Convolution commutes: the image is filtered with steps of the LR grid.
            axes = tuple(axis for axis, n in enumerate(self.lr_shape, start=1) if n > 2)
            image = _laplacian(image, axes, (1, *self.scale))
            data = _laplacian(data, axes, (1,) * (1 + self.ndim))
        lattice = (slice(None, None, thin),) * self.ndim
        data = data[:, *lattice]
        mean = data.mean()
        data, patches = data - mean, image - mean
        for axis, (taps, s) in enumerate(zip(self.kernel_shape, self.scale, strict=True)):
            patches = patches.unfold(1 + axis, taps, s * thin)
        if weights is not None:
            weights = weights.reshape(-1, *self.lr_shape)[:, *lattice]
        step = self.scale[0] * thin
        return GramStatistics.accumulate(patches, data, self.kernel_shape, step, weights)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.ndim, 0))

    @cached_property
    def between(self) -> tuple[bool, ...]:
        """Whether, per axis, samples fall half-way between HR pixels."""
        return tuple(
            self.phase == "area" and (s - k) % 2 == 1
            for s, k in zip(self.scale, self.kernel_shape, strict=True)
        )

    @cached_property
    def _reach(self) -> tuple[int, ...]:
        """Number of HR pixels that one sample depends on, per axis."""
        return tuple(k + e for k, e in zip(self.kernel_shape, self.between, strict=True))

    @cached_property
    def _first(self) -> tuple[int, ...]:
        """Frame coordinate of the first HR pixel that LR sample 0 depends on, per axis."""
        if self.phase == "fkp":
            return tuple(-(k // 2) for k in self.kernel_shape)
        return tuple((s - k) // 2 for s, k in zip(self.scale, self._reach, strict=True))

    @cached_property
    def _before(self) -> tuple[int, ...]:
        if self.boundary == "circular":
            return (0,) * self.ndim
        return tuple(max(0, -first) for first in self._first)

    @cached_property
    def _after(self) -> tuple[int, ...]:
        if self.boundary == "circular":
            return (0,) * self.ndim
        return tuple(
            max(0, first + reach - s)
            for first, reach, s in zip(self._first, self._reach, self.scale, strict=True)
        )

    @cached_property
    def _sites(self) -> tuple[EllipsisType | slice, ...]:
        sites = (slice(0, n, s) for n, s in zip(self.hr_shape, self.scale, strict=True))
        return (..., *sites)

    def _between_pixels(self, kernel: Tensor) -> Tensor:
        """Average neighbours along the axes on which samples fall between HR pixels."""
        for axis, between in zip(self._axes, self.between, strict=True):
            if between:
                zero = kernel.new_zeros(_with_length(kernel.shape, axis, 1))
                kernel = 0.5 * (torch.cat([kernel, zero], axis) + torch.cat([zero, kernel], axis))
        return kernel

    def _interpolate(self, image: Tensor) -> Tensor:
        """Average neighbours along the axes on which samples fall between HR pixels."""
        for axis, between in zip(self._axes, self.between, strict=True):
            if between and self.boundary == "circular":
                image = 0.5 * (image + image.roll(-1, axis))
            elif between:
                n = image.shape[axis]
                image = 0.5 * (image.narrow(axis, 0, n - 1) + image.narrow(axis, 1, n - 1))
        return image

    def _support(self, image: Tensor, axis: int) -> Tensor:
        """Cut out, or wrap around, the pixels that the samples along one axis depend on."""
        start = self._first[axis] + self._before[axis]
        s, taps = self.scale[axis], self.kernel_shape[axis]
        length = s * (self.lr_shape[axis] - 1) + taps
        if self.boundary == "free":
            return image.narrow(1 + axis, start, length)
        index = torch.arange(start, start + length, device=image.device) % image.shape[1 + axis]
        return image.index_select(1 + axis, index)


def degrade(
    hr: np.ndarray,
    kernel: np.ndarray,
    *,
    scale: int | tuple[int, ...] = 2,
    axes: str | None = None,
    phase: Phase = "area",
    boundary: Boundary = "free",
    noise: float = 0.0,
    seed: int = 0,
) -> np.ndarray:
    """Blur, decimate and add noise: the forward model, for simulations (eq. 1).

    Parameters
    ----------
    hr : sharp image; spatial axes are the last two, or those named Y and X in `axes`; under a
        kernel of three axes the last three, or Z, Y and X. Lengths are multiples of the scale.
    kernel : point spread function in HR pixels, shape (K, K) or (K, K, K), non-negative; it is
        normalised to sum 1.
    scale : 1 to 8, one integer or one per spatial axis.
    axes : as in `restore`, e.g. "YXC".
    phase : grid of the LR samples, see the module's docstring.
    boundary : "free" continues the image past its frame by mirroring; "circular" wraps it.
    noise : standard deviation of Gaussian noise, in the image's intensity units.
    seed : of the noise.

    Returns
    -------
    float32 array, spatial axes divided by the scale.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.
    """
    hr = np.asarray(hr)
    _checks.real_dtype("hr", hr.dtype)
    _checks.finite("hr", hr)
    _checks.choice("phase", phase, PHASES)
    _checks.choice("boundary", boundary, BOUNDARIES)
    noise = _checks.number("noise", noise, 0.0)
    seed = _checks.integer("seed", seed, 0)
    ndim = 3 if np.ndim(kernel) == 3 else 2
    psf = _checks.psf("kernel", kernel, ndim)
    scale = _checks.per_axis("scale", scale, 1, MAX_SCALE)
    scales = (scale,) * ndim if isinstance(scale, int) else scale
    if len(scales) != ndim:
        raise ValueError(f"scale: expected one integer or {ndim}; got {scale}")
    if hr.ndim < ndim:
        raise ValueError(f"hr: expected at least {ndim} axes; got {hr.ndim}")
    spatial = last = tuple(range(-ndim, 0))
    if axes is not None:
        _checks.axes("axes", axes, hr.ndim)
        letters = "ZYX"[-ndim:]
        if not set(letters) <= set(axes):
            raise ValueError(f"axes: expected Z, Y and X for a kernel of three; got {axes!r}")
        spatial = tuple(axes.index(letter) for letter in letters)
    planes = torch.from_numpy(np.moveaxis(hr, spatial, last).astype(np.float32))
    if any(n % s for n, s in zip(planes.shape[-ndim:], scales, strict=True)):
        raise ValueError(
            f"hr: expected sides that are multiples of scale {scales}; "
            f"got {tuple(planes.shape[-ndim:])}"
        )
    lr_shape = tuple(n // s for n, s in zip(planes.shape[-ndim:], scales, strict=True))
    model = Degradation(lr_shape, scales, psf.shape, phase, boundary)
    _checks.not_smaller_than_kernel("hr", lr_shape, scales, psf.shape)
    lr = model.forward(model.extend(planes), torch.from_numpy(psf)).numpy()
    if noise:
        lr = lr + np.random.default_rng(seed).normal(0.0, noise, lr.shape).astype(np.float32)
    return np.moveaxis(lr, last, spatial)


def _window(image: Tensor, start: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Cut a box out of the trailing axes."""
    for axis, (first, length) in enumerate(zip(start, shape, strict=True), start=-len(shape)):
        image = image.narrow(axis, first, length)
    return image


def _laplacian(image: Tensor, axes: Sequence[int], steps: Sequence[int]) -> Tensor:
    """Return Σ_axes 2 x(u) - x(u - step) - x(u + step), where all of these lie in the image."""

    def shifted(along: int, by: int) -> Tensor:
        view = image
        for axis in axes:
            start = steps[axis] + (by if axis == along else 0)
            view = view.narrow(axis, start, image.shape[axis] - 2 * steps[axis])
        return view

    result = 2 * len(axes) * shifted(-1, 0) if axes else image
    for axis in axes:
        result = result - shifted(axis, -steps[axis]) - shifted(axis, steps[axis])
    return result


def _wrapped(kernel: Tensor, axis: int, length: int) -> Tensor:
    """Lay an axis on a circle: padded with zeros where shorter, added up where longer."""
    turns = -(-kernel.shape[axis] // length)
    missing = turns * length - kernel.shape[axis]
    zeros = kernel.new_zeros(_with_length(kernel.shape, axis, missing))
    folded: Tensor = torch.cat([kernel, zeros], axis).unflatten(axis, (turns, length))
    return folded.sum(axis - 1)


def _with_length(shape: Sequence[int], axis: int, length: int) -> list[int]:
    lengths = list(shape)
    lengths[axis] = length
    return lengths
