"""What edges and thin bars in a plane say of its kernel: more than its power spectrum does.

Where an object has a straight edge, samples show what the kernel makes of one: its integral across
the edge. Nobody knows which samples these are, nor the course of the edge; but a patch of a few
samples holds smooth structure, or that and a step or a bar of some direction, place and height, and
its likelihood is the mean over all of them. No image is restored for that, and so none confirms the
kernel that has formed it.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from napari_dkp.degradation import Degradation


class KernelEdges:
    """The likelihood of kernels near a population, under patches of a plane.

    A patch is y = a s + t + n but for a constant: s what the kernel makes of one of the steps, a
    its height, t structure that is normal under the power law of photographs and the kernel, n
    noise. All steps are equally likely, and together as likely as none. The structure's covariance
    is that under the population's mean: by each kernel's own, the power that it lets pass would
    count, which power spectra tell better.

    Patches count that tell the population's kernels apart most, and pairs of a patch and a step
    that some of these kernels make likely.

    Parameters
    ----------
    model : forward model of the plane, two spatial axes.
    data : y in normalised intensity, shape (scenes, h, w), each grey.
    noise : standard deviation of their noise, normalised; of rounding at least.
    populations : kernels that may be, shape (N, *K) each, float32, in the first as in the others
        but for half a turn. They are all equally likely where planes are smaller than a patch, or
        more than 800 taps are reached.
    """

    def __init__(
        self, model: Degradation, data: Tensor, noise: float, populations: list[Tensor]
    ) -> None:
        population, means = torch.cat(populations), [each.mean(0) for each in populations]
        # Taps that none of them reaches are as good as absent.
        self._taps = population.amax(0).flatten() > _NIL * population.max()
        taps = _places(population.shape[1:]).to(population)[self._taps]
        extent = (taps.amax(0) - taps.amin(0) + 1) / torch.tensor(model.scale).to(population)
        every = max(1, round(float(extent.max()) / _EXTENT))
        patches = _patches(data, every).to(population)
        self._tells = len(patches) > 0 and len(taps) <= _MOST_TAPS
        if not self._tells:
            return
        patches = _thinned(patches)
        steps = _steps(model, taps, every)
        self._chance = math.log(_CHANCE / steps.shape[1])
        grounds = _grounds(model, means[0], every, max(noise, _ROUNDING))
        parts = self._parts(grounds, patches, steps, self._reached(torch.stack(means)))
        few = self._reached(population[:: math.ceil(len(population) / _FEW)])
        heard = [self._hear(ground, patches, steps, few) for ground, patches in parts]
        told = torch.cat([told for told, _ in heard])
        telling = torch.zeros_like(told, dtype=torch.bool)
        telling[told.topk(min(_MOST_PATCHES, len(told))).indices] = True
        kept_of = telling.split([len(patches) for _, patches in parts])
        responses, products, rows, owners = [], [], [], []
        self._n_patches = self._n_rows = 0
        for (ground, patches), (_, shares), kept in zip(parts, heard, kept_of, strict=True):
            step, patch = (shares[:, kept] > _LEAST_SHARE).nonzero(as_tuple=True)
            used, row = step.unique(return_inverse=True)
            response = ground.white(steps[:, used])
            responses.append(response.flatten(1))
            white = ground.white(patches[kept]).mT
            products.append(torch.stack([(of_tap @ white)[row, patch] for of_tap in response]))
            rows.append(self._n_rows + row)
            owners.append(self._n_patches + patch)
            self._n_rows += len(used)
            self._n_patches += int(kept.sum())
        # Of a tap: what it makes of each step, white, (taps, rows * values); and the product of
        # that with each patch, (taps, pairs).
        self._responses, self._products = torch.cat(responses, 1), torch.cat(products, 1)
        # Of each pair, its step and its patch.
        self._rows, self._owners = torch.cat(rows), torch.cat(owners)

    def __call__(self, kernels: Tensor) -> Tensor:
        """Return the log-likelihood of kernels (N, *K), but for a constant: float64, shape (N,)."""
        if not self._tells:
            return torch.zeros(len(kernels), dtype=torch.float64, device=kernels.device)
        parts = [self._log_likelihood(self._reached(part)) for part in kernels.split(_AT_ONCE)]
        return _TRUST * torch.cat(parts)

    def _reached(self, kernels: Tensor) -> Tensor:
        """Return the taps that count of kernels (N, *K), shape (N, taps)."""
        return kernels.float().flatten(1)[:, self._taps]

    def _log_likelihood(self, taps: Tensor) -> Tensor:
        seen = (taps @ self._responses).reshape(len(taps), self._n_rows, _VALUES)
        squares = seen.square().sum(2)[:, self._rows]
        evidence = self._chance + _bayes_factor(squares, taps @ self._products)
        owners = self._owners.expand(len(taps), -1)
        # The logarithm of a sum over each patch's steps, and none.
        none = evidence.new_full((len(taps), self._n_patches), math.log(1 - _CHANCE))
        most = none.scatter_reduce(1, owners, evidence, "amax")
        parts = (evidence - most.gather(1, owners)).exp()
        total = (none - most).exp().scatter_add(1, owners, parts)
        return (most + total.log()).double().sum(1)

    def _parts(
        self, grounds: list["_Ground"], patches: Tensor, steps: Tensor, typical: Tensor
    ) -> list[tuple["_Ground", Tensor]]:
        """Return the patches that are likeliest on each ground under one of some kernels."""
        likely = []
        for ground in grounds:
            totals = [self._evidence(ground, patches, steps, kernel)[1] for kernel in typical]
            likely.append(ground.log_density(patches) + torch.stack(totals).amax(0))
        best = torch.stack(likely).argmax(0)
        parts = [(ground, patches[best == number]) for number, ground in enumerate(grounds)]
        return [(ground, part) for ground, part in parts if len(part)]

    def _hear(
        self, ground: "_Ground", patches: Tensor, steps: Tensor, kernels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return how much patches tell of kernels (N, taps), and the chance of each step.

        The variance between kernels of the log-likelihood of patches (n, P²), shape (n,), and the
        most that a kernel allows, shape (steps, n).
        """
        totals, shares = [], torch.zeros(steps.shape[1], len(patches), device=patches.device)
        for kernel in kernels:
            evidence, total = self._evidence(ground, patches, steps, kernel)
            totals.append(total)
            shares = torch.maximum(shares, (evidence - total).exp())
        return torch.stack(totals).var(0, correction=0), shares

    def _evidence(
        self, ground: "_Ground", patches: Tensor, steps: Tensor, kernel: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return how much likelier a kernel (taps,) with each step makes patches (n, P²).

        Logarithms: of each step, times its chance, (steps, n); and of all, and none, (n,).
        """
        seen = ground.white((kernel @ steps.flatten(1)).reshape(steps.shape[1:]))
        squares, products = seen.square().sum(1, keepdim=True), seen @ ground.white(patches).mT
        evidence = self._chance + _bayes_factor(squares, products)
        none = evidence.new_tensor(math.log(1 - _CHANCE))
        return evidence, torch.logaddexp(evidence.logsumexp(0), none)


@dataclass(frozen=True)
class _Ground:
    """What a patch is but for a step: structure of one contrast, and noise; its mean is left out.

    Attributes
    ----------
    whitening : matrix (P² - 1, P²) that makes it white.
    log_scale : logarithm of its determinant.
    """

    whitening: Tensor
    log_scale: float

    def white(self, patches: Tensor) -> Tensor:
        """Whiten patches (..., P²) to (..., P² - 1)."""
        return patches @ self.whitening.mT

    def log_density(self, patches: Tensor) -> Tensor:
        """Return that of patches (n, P²), but for a constant, shape (n,)."""
        return self.log_scale - 0.5 * self.white(patches).square().sum(1)


def _bayes_factor(squares: Tensor, products: Tensor) -> Tensor:
    """Return how much likelier a step makes a patch; its logarithm.

    Parameters
    ----------
    squares : ‖s‖² of the whitened step.
    products : sᵀy of the whitened step and patch.
    """
    of_height = [
        0.5 * height**2 * products.square() / (1 + height**2 * squares)
        - 0.5 * torch.log1p(height**2 * squares)
        for height in _HEIGHTS
    ]
    return torch.stack(of_height).logsumexp(0) - math.log(len(_HEIGHTS))


def _places(shape: tuple[int, ...]) -> Tensor:
    """Return the coordinates of an array's elements, shape (N, 2), float64."""
    return torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in shape))


def _patches(data: Tensor, every: int) -> Tensor:
    """Return patches of planes (scenes, h, w), of samples so far apart, shape (n, P²)."""
    span = every * (_SIDE - 1) + 1
    if min(data.shape[1:]) < span:
        return data.new_zeros(0, _SIDE**2)
    whole = data.unfold(1, span, _STRIDE).unfold(2, span, _STRIDE)
    return whole[..., ::every, ::every].reshape(-1, _SIDE**2)


def _thinned(patches: Tensor) -> Tensor:
    """Return at most so many patches as are looked at, drawn at random from the livelier half.

    What is flat tells nothing, and what is liveliest is least like what is assumed.
    """
    most = min(_MOST_LOOKED_AT, len(patches))
    lively = patches.var(1).topk(max(most, len(patches) // 2)).indices
    drawn = torch.randperm(len(lively), generator=torch.Generator().manual_seed(0))[:most]
    return patches[lively[drawn.to(patches.device)]]


def _steps(model: Degradation, taps: Tensor, every: int) -> Tensor:
    """Return what each tap makes of steps and bars, their means left out: (taps, steps, P²).

    Parameters
    ----------
    taps : places of taps, shape (taps, 2).
    every : LR samples from one of a patch to the next.
    """
    spacing = every * torch.tensor(model.scale).to(taps)
    samples = (_places((_SIDE, _SIDE)).to(taps) - (_SIDE - 1) / 2) * spacing
    taps = taps - torch.tensor(model.kernel_centre).to(taps)
    angles = torch.arange(_ANGLES).to(taps) * (math.pi / _ANGLES)
    normals = torch.stack([angles.sin(), angles.cos()])
    reach = samples.norm(dim=1).max() + spacing.max() / 2
    most = int(reach / _OFFSET)
    offsets = torch.arange(-most, most + 1).to(taps) * _OFFSET
    softness = _SOFTNESS * math.sqrt(2)
    shifts = list(product(*((-0.5, 0.5) if between else (0.0,) for between in model.between)))
    steps = taps.new_zeros(len(taps), 2, _ANGLES, len(offsets), len(samples))
    for shift in shifts:
        moved = samples + torch.tensor(shift).to(taps)
        # taps, angles, offsets, P²
        across = (moved @ normals).T[:, None] - offsets[:, None]
        across = across - (taps @ normals)[:, :, None, None]
        steps[:, 0] += torch.erf(across / softness)
        steps[:, 1] += torch.erf((across + _BAR / 2) / softness)
        steps[:, 1] -= torch.erf((across - _BAR / 2) / softness)
    steps = steps.flatten(1, 3) * (0.5 / len(shifts))
    return steps - steps.mean(2, keepdim=True)


def _grounds(model: Degradation, kernel: Tensor, every: int, noise: float) -> list[_Ground]:
    """Return what patches are without a step, for each contrast of structure under a kernel."""
    texture = _texture(model, kernel.double().cpu(), every)
    n = len(texture)
    # The orthonormal vectors without a mean.
    basis = torch.linalg.svd(torch.eye(n).double() - 1 / n)[0][:, : n - 1]
    grounds = []
    for contrast in _CONTRASTS:
        covariance = contrast**2 * texture + noise**2 * torch.eye(n).double()
        lower = torch.linalg.cholesky(basis.T @ covariance @ basis)
        whitening = torch.linalg.solve_triangular(lower, basis.T, upper=False)
        grounds.append(_Ground(whitening.to(kernel), -float(lower.diagonal().log().sum())))
    return grounds


def _texture(model: Degradation, kernel: Tensor, every: int) -> Tensor:
    """Return the covariance (P², P²) between a patch's samples, of structure under a power law.

    That is of unit variance from HR pixel to pixel along an axis, before the kernel blurs it.
    """
    steps = [every * scale for scale in model.scale]
    reach = zip(steps, kernel.shape, strict=True)
    shape = [next_fast_len(max(_SMALLEST, 2 * (step * _SIDE + taps))) for step, taps in reach]
    along = torch.fft.fftfreq(shape[0]).double()[:, None]
    across = torch.fft.rfftfreq(shape[1]).double()
    power = 1 / (along**2 + across**2 + _FLAT_BELOW**2)
    structure = torch.fft.irfft2(power, s=shape)
    seen = torch.fft.rfft2(kernel, s=shape).abs().square() * power
    for between, frequency in zip(model.between, (along, across), strict=True):
        if between:  # a sample is the mean of two pixels
            seen = seen * torch.cos(math.pi * frequency).square()
    covariance = torch.fft.irfft2(seen, s=shape) / (2 * (structure[0, 0] - structure[0, 1]))
    rows, columns = (
        (step * (torch.arange(_SIDE)[:, None] - torch.arange(_SIDE))) % n
        for step, n in zip(steps, shape, strict=True)
    )
    pairs: Tensor = covariance[rows[:, None, :, None], columns[None, :, None, :]]
    return pairs.reshape(_SIDE**2, _SIDE**2)


# Samples along a side of a patch, and the values of one that are left without its mean.
_SIDE = 7
_VALUES = _SIDE**2 - 1
# Samples from one patch to the next.
_STRIDE = 2
# Samples along a kernel; where there are more, a patch has not all of them.
_EXTENT = 5
# That a patch has a step.
_CHANCE = 0.5
# Heights of steps, and contrasts of structure from pixel to pixel, in normalised intensity.
_HEIGHTS = (0.05, 0.2)
_CONTRASTS = (0.004, 0.016, 0.06, 0.2)
# Of steps: directions; HR pixels from one to the next, from dark to bright (a standard deviation)
# and across a bar.
_ANGLES, _OFFSET, _SOFTNESS, _BAR = 16, 1.0, 0.5, 2.0
# Standard deviation of rounding to 256 levels, twice: what is smooth is not quite so.
_ROUNDING = 0.6 / 255
# Kernels of a population that say which patches and pairs count.
_FEW = 32
# Patches that are looked at, and that count.
_MOST_LOOKED_AT, _MOST_PATCHES = 1024, 200
# Of a patch: chance of a step, below which it is left out.
_LEAST_SHARE = 1e-3
# Of the largest tap; and taps, to bound memory.
_NIL, _MOST_TAPS = 1e-3, 800
# Cycles per pixel below which structure has no more power.
_FLAT_BELOW = 0.01
_SMALLEST = 128
# Kernels whose likelihood is computed at once, to bound memory.
_AT_ONCE = 32
# Patches overlap, and edges are not as straight, nor structure as even, as is assumed.
_TRUST = 0.03
