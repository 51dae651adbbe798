"""What the power spectrum of a plane says of its kernel: nearly all but for half a turn.

Power in photographs falls with frequency as a power law does, smoothly and much alike in every
direction (Field 1987). A kernel multiplies it by its own: a Gaussian lets it fall faster, a motion
gives it stripes (Goldstein and Fattal 2012). No image is restored for that, and so none confirms
the kernel that has formed it.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from napari_dkp.degradation import Degradation
from napari_dkp.periodogram import CORRELATION, periodogram
from napari_dkp.windows import contrast, windows


class KernelSpectrum:
    """The likelihood of kernels under the power spectra of blocks of a plane (Whittle 1953).

    The power of a block is that of the object times that of the kernel, folded by the sampling, and
    that of noise. Of the object's, amplitude, slope and what differs between directions are fitted
    to each block: a strong edge is a streak in its spectrum, and lies in few blocks.

    Parameters
    ----------
    model : forward model of the plane, two spatial axes.
    data : y in normalised intensity, shape (C, h, w); the mean of its channels' power counts. Of
        small planes, or without contrast, all kernels are equally likely.
    device : where kernels are.

    Attributes
    ----------
    tells : False where all kernels are equally likely.
    """

    def __init__(self, model: Degradation, data: Tensor, device: torch.device) -> None:
        plane = data.to("cpu", torch.float64).numpy()
        rows, columns = (
            min(n, max(_SMALLEST, math.ceil(_SUPPORTS * taps / s)))
            for n, taps, s in zip(model.lr_shape, model.kernel_shape, model.scale, strict=True)
        )
        every = windows(model.lr_shape, (rows, columns))
        lively = sorted(every, key=lambda window: -contrast(plane, window))[:_MOST_BLOCKS]
        chosen = [window for window in lively if contrast(plane, window) > _TINY]
        powers = [periodogram(plane[(slice(None), *window)]) for window in chosen]
        along = torch.fft.fftfreq(rows, dtype=torch.float64)[:, None].expand(rows, columns)
        across = torch.fft.fftfreq(columns, dtype=torch.float64).expand(rows, columns)
        radius = torch.hypot(along, across)
        # The axes hold what differs between opposite borders. Of ±f, one is enough.
        told = (radius > _LOWEST) & (along.abs() > 1.5 / rows) & (across > 1.5 / columns)
        kept = _thinned(told, _MOST_FREQUENCIES)
        self.tells = min(rows, columns) >= _SMALLEST and bool(chosen)
        if not self.tells:
            return
        # Of each block and channel, shape (B, C, F), at the frequencies kept.
        self._powers = torch.from_numpy(np.stack(powers))[..., kept].to(device, torch.float32)
        self._power = self._powers.mean(1)
        # Under a taper neighbouring frequencies share noise, unless they are far between; blocks
        # that overlap share samples, and those that are chosen mostly lie side by side.
        shared = max(1.0, CORRELATION * float(kept.sum() / told.sum()))
        covered = len(every) * rows * columns / math.prod(model.lr_shape)
        self._weight = 2 / (shared * max(1.0, covered))
        self._lags = _lags(model.kernel_shape)
        block = replace(model, lr_shape=(rows, columns), boundary="circular")
        self._folding = _folding(block, kept, self._lags).to(device, torch.float32)
        angle, fall = torch.atan2(along[kept], across[kept]), radius[kept].log()
        terms = [torch.ones_like(fall), (fall - fall.mean()) / fall.std()]
        terms += [math.sqrt(2) * turn(n * angle) for n in (2, 4) for turn in (torch.cos, torch.sin)]
        self._terms = torch.stack(terms, 1).to(device, torch.float32)
        first, second = torch.triu_indices(len(terms), len(terms))
        self._pairs = self._terms[:, first] * self._terms[:, second]
        self._place = torch.zeros(len(terms), len(terms), dtype=torch.long, device=device)
        self._place[first, second] = self._place[second, first] = torch.arange(
            len(first), device=device
        )
        spreads = torch.tensor([math.inf] + [_SPREAD] * (len(terms) - 1) + [_NOISE_SPREAD])
        self._precision = (spreads**-2).to(device)

    def __call__(self, kernels: Tensor) -> Tensor:
        """Return the log-likelihood of kernels (N, *K), but for a constant: float64, shape (N,)."""
        if not self.tells:
            return torch.zeros(len(kernels), dtype=torch.float64, device=kernels.device)
        parts = [self._log_likelihood(part) for part in kernels.float().split(_AT_ONCE)]
        return torch.cat(parts).double()

    def explained(self, kernel: Tensor) -> bool:
        """Return whether power scatters about what a kernel (*K,) foretells as it does by chance.

        Where objects are striped themselves it scatters more, and that is no kernel's doing. A
        plane that tells nothing has nothing to explain it. Channels count each by itself: the mean
        of many scatters little, whatever they are.
        """
        if not self.tells:
            return False
        powers = self._powers.flatten(0, 1)
        _, total = self._suited(kernel.float()[None], powers, _TO_THE_END)
        return bool((powers / total - 1).square().mean() <= _MOST_SCATTER)

    def _log_likelihood(self, kernels: Tensor) -> Tensor:
        suiting, total = self._suited(kernels, self._power, _NEWTON_STEPS)
        fit = self._weight * (total.log() + self._power / total).sum(2)
        return -_TRUST * (fit + 0.5 * (self._precision * suiting.square()).sum(2)).sum(1)

    def _suited(self, kernels: Tensor, power: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Return what suits power (B, F) best under each kernel, and the power this foretells.

        Shapes (N, B, terms) and (N, B, F).
        """
        folded = (_autocorrelation(kernels, self._lags) @ self._folding).clamp_min(_TINY)[:, None]
        suiting = self._near(folded, power)
        for _ in range(n_steps):
            imaged, noise = self._model(suiting, folded)
            total = imaged + noise
            imaged, noise = imaged / total, noise / total
            off = power / total - 1
            slope = torch.cat([(off * imaged) @ self._terms, (off * noise).sum(2, True)], 2)
            rise = self._weight * slope - self._precision * suiting
            normal = torch.diag_embed((self._precision + _RIDGE).expand_as(suiting)).clone()
            pairs = imaged.square() @ self._pairs
            normal[..., :-1, :-1] += self._weight * pairs[..., self._place]
            normal[..., :-1, -1] += self._weight * ((imaged * noise) @ self._terms)
            normal[..., -1, :-1] = normal[..., :-1, -1]
            normal[..., -1, -1] += self._weight * noise.square().sum(2)
            step = torch.linalg.solve(normal, rise.unsqueeze(-1))[..., 0]
            suiting = suiting + step.clamp(-_LONGEST, _LONGEST)
        imaged, noise = self._model(suiting, folded)
        return suiting, imaged + noise

    def _near(self, folded: Tensor, power: Tensor) -> Tensor:
        """Return about what suits: of each block its object's power, in terms, and its noise's.

        These are logarithms. Those of power are regressed on the terms where a kernel lets much
        more than noise pass: elsewhere they tell of noise alone.
        """
        n = max(1, folded.shape[2] // 8)
        least, most = (folded[:, 0].topk(n, largest=largest).indices for largest in (False, True))
        power, passed = power.clamp_min(_TINY), folded[:, 0]
        bound = power[:, least].mean(2).mT  # of noise, which is all of it only for some kernels
        typical = power.mean(0)
        level = (typical[most].log() - passed.gather(1, most).log()).mean(1, keepdim=True)
        imaged = level.exp() * passed
        weights = (imaged / (imaged + bound.mean(1, keepdim=True))).square()
        normal = (weights @ self._pairs)[..., self._place]
        normal = normal + torch.diag(self._precision[:-1] / self._weight + _LEAST)
        logarithms = power.log() + _OF_MEAN - folded.log()
        right = (weights[:, None] * logarithms) @ self._terms
        terms = torch.linalg.solve(normal[:, None], right.unsqueeze(-1))[..., 0]
        return torch.cat([terms, (_NOISE_START * bound / _NOISE).log().unsqueeze(2)], 2)

    def _model(self, suiting: Tensor, folded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the power of what is imaged, and of noise."""
        exponent = (suiting[..., :-1] @ self._terms.mT).clamp(-_LARGEST, _LARGEST)
        return exponent.exp() * folded, _NOISE * suiting[..., -1:].clamp(-_LARGEST, _LARGEST).exp()


def _thinned(mask: Tensor, most: int) -> Tensor:
    """Return a mask with at most so many of the places of another, drawn at random."""
    places = mask.flatten().nonzero()[:, 0]
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:most]
    thinned = torch.zeros_like(mask).flatten()
    thinned[places[drawn]] = True
    return thinned.reshape(mask.shape)


def _lags(kernel_shape: tuple[int, ...]) -> Tensor:
    """Return the lags between taps, shape (L, 2), one of each that are opposite; zero first."""
    rows, columns = kernel_shape
    along, across = torch.meshgrid(
        torch.arange(1 - rows, rows), torch.arange(columns), indexing="ij"
    )
    lags = torch.stack([along, across], -1).reshape(-1, 2)
    lags = lags[(lags[:, 1] > 0) | (lags[:, 0] > 0)]
    return torch.cat([lags.new_zeros(1, 2), lags])


def _autocorrelation(kernels: Tensor, lags: Tensor) -> Tensor:
    """Return Σ k(u) k(u + lag) of kernels (N, *K), shape (N, L)."""
    size = [2 * n for n in kernels.shape[1:]]
    power = torch.fft.rfft2(kernels, s=size).abs().square()
    rows, columns = (lag % n for lag, n in zip(lags.unbind(1), size, strict=True))
    all_lags: Tensor = torch.fft.irfft2(power, s=size)
    return all_lags[:, rows, columns]


def _folding(block: Degradation, kept: Tensor, lags: Tensor) -> Tensor:
    """Return the matrix from a kernel's autocorrelation to the power of what it makes of objects.

    That is at the frequencies kept of a block, for objects whose power falls with the square of the
    frequency, and summed over all HR frequencies that the sampling folds there; shape (L, F).
    """
    rows, columns = kept.nonzero(as_tuple=True)
    point = torch.zeros(block.kernel_shape, dtype=torch.float64)
    point[tuple(n // 2 for n in block.kernel_shape)] = 1
    # Of a single tap: samples that fall between pixels are means of those.
    between = block.transfer(point).abs().square()
    twice = torch.where((lags == 0).all(1), 1.0, 2.0).double()
    folding = torch.zeros(len(lags), len(rows), dtype=torch.float64)
    n_rows, n_columns = block.grid_shape
    for turn_row in range(block.scale[0]):
        for turn_column in range(block.scale[1]):
            row = rows + turn_row * block.lr_shape[0]
            column = columns + turn_column * block.lr_shape[1]
            along = torch.fft.fftfreq(n_rows, dtype=torch.float64)[row]
            across = torch.fft.fftfreq(n_columns, dtype=torch.float64)[column]
            mirrored = column > n_columns // 2  # whose conjugates rfft keeps
            at = (
                torch.where(mirrored, -row % n_rows, row),
                torch.where(mirrored, -column % n_columns, column),
            )
            power = between[at] / (along**2 + across**2)
            phase = 2 * math.pi * (lags[:, :1] * along + lags[:, 1:] * across)
            folding += power * torch.cos(phase)
    return twice[:, None] * folding


# Samples along a side of a block, at least (of less there is nothing to tell), and lengths of a
# kernel.
_SMALLEST, _SUPPORTS = 32, 6
_MOST_BLOCKS = 16
# Objects follow no power law: at full weight true lines of three parameters lie 10 nats below the
# most likely ones, in the mean over six images, rather than the 1.5 of a likelihood that is true.
_TRUST = 0.2
# Of a block; the rest says little more, and takes time.
_MOST_FREQUENCIES = 512
# Cycles per sample; below, the power is that of the few largest things in view.
_LOWEST = 0.06
# Of the logarithm of an object's power, along each term; of the noise's, about that of rounding.
_SPREAD = 0.5
_NOISE, _NOISE_SPREAD = 1e-6, 4.0
# Relative variance of power: by chance 1, of photographs up to 1.1; of stripes from 1.5 on.
_MOST_SCATTER = 1.25
# Newton steps: where kernels are likely, and what objects are not far from the usual; and always.
_NEWTON_STEPS, _TO_THE_END, _LONGEST = 3, 40, 2.0
# To begin with: noise, in units of an upper bound; frequencies that count where none does.
_NOISE_START, _LEAST = 0.15, 1e-3
# Logarithm of a mean less the mean logarithm, of power that scatters by chance (Euler's constant).
_OF_MEAN = 0.5772
_RIDGE = 1e-6
_TINY = 1e-9
_LARGEST = 30.0
# Kernels whose likelihood is computed at once, to bound memory.
_AT_ONCE = 32
