"""Prior kernel estimation (PKE, eqs. 9-13): a small network that turns samples into the kernel.

k = G_k(z; φ) with fixed noise z. Each Langevin step moves φ down the gradient of the data misfit
and of the distance to the sampled prior k_p; the latter takes the place of the random force of a
plain Langevin step (eq. 13, network-based Langevin dynamics). The prior keeps the kernel near the
families; the data may take it out of them.
"""

import math
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from napari_dkp.adam import Adam
from napari_dkp.config import PKEConfig
from napari_dkp.degradation import Degradation
from napari_dkp.gram import GramStatistics
from napari_dkp.kernels import CentredSoftmax
from napari_dkp.randomness import initialise


class KernelEstimator:
    """The kernel network with its optimiser.

    Parameters
    ----------
    model : gives the kernel's shape and where its centroid belongs.
    config : size of the network and of its steps.
    generator : CPU generator of z and of the initial φ.
    device : where the network lives.
    """

    def __init__(
        self, model: Degradation, config: PKEConfig, generator: Generator, device: torch.device
    ) -> None:
        self._config = config
        self._shape = model.kernel_shape
        noise = 0.1 * torch.rand(_NOISE_LENGTH, generator=generator)
        widths = [_NOISE_LENGTH, *config.hidden, math.prod(self._shape)]
        with torch.random.fork_rng(devices=[]):
            first, *others = (nn.Linear(*fan) for fan in pairwise(widths))
        initialise(nn.Sequential(first, *others), generator)
        # Of z, which is fixed, the first layer makes a vector W z + b. Adam moves all weights of a
        # unit alike, and the vector thus 1 + Σ z times as far as b: it is a parameter by itself.
        self._first = nn.Parameter(first(noise).detach().to(device))
        layers = (module for layer in others for module in (nn.ReLU6(), layer))
        self._layers = nn.Sequential(*layers).to(device)
        rate = config.learning_rate
        self._optimisers = [
            Adam([self._first], rate * (1 + noise.sum().item())),
            Adam(self._layers.parameters(), rate),
        ]
        self._softmax = CentredSoftmax(self._shape, model.kernel_centre, self._first)
        self._tilt: Tensor | None = None
        self._update()

    def warm_up_step(self, kernel: Tensor) -> None:
        """Move towards a random kernel, before any image is looked at."""
        self._descend(self._slope(kernel))

    def step(
        self, prior: Tensor, statistics: GramStatistics, data_weight: float | None = None
    ) -> Tensor:
        """Do the Langevin steps of one outer iteration; return the kernel, shape (*K,).

        Parameters
        ----------
        prior : k_p of RKS, shape (*K,).
        statistics : of the latest image.
        data_weight : instead of the config's.
        """
        weight = self._config.data_weight if data_weight is None else data_weight
        for _ in range(self._config.steps):
            # Eq. 10 as a log-likelihood with the noise variance maximised out, per sample: the
            # pull is the same for every intensity scale and does not fade where the prior fails.
            misfit, slope = statistics.misfit_and_slope(self.kernel())
            data = (slope / (statistics.unit or misfit + _FLOOR)).to(prior)
            self._descend(self._slope(prior) + weight * data)  # eqs. 11-12
        return self.kernel()

    def kernel(self) -> Tensor:
        """Return the current kernel G_k(z; φ), shape (*K,)."""
        return self._kernel.reshape(self._shape)

    def _slope(self, target: Tensor) -> Tensor:
        """Return the gradient, by the kernel, of the distance to the prior (eq. 11).

        That is squared, as published, or relative entropy, Σ t log(t / k). The squared distance
        hardly sees a pedestal, a little mass spread over many taps.
        """
        kernel = self.kernel()
        if self._config.distance == "squared":
            return 2 * (kernel - target) / target.square().sum()
        return torch.where(kernel > _FLOOR, -target / kernel, 0)

    @torch.enable_grad()
    def _descend(self, slope: Tensor) -> None:
        """Do one step of Adam down the gradient of a loss by the kernel, shape (*K,)."""
        gradient = self._softmax.gradient(self._kernel, slope.reshape(1, -1))
        self._first.grad = None
        self._layers.zero_grad()
        self._layers(self._first).backward(gradient[0])
        for optimiser in self._optimisers:
            optimiser.step()
        self._update()

    @torch.no_grad()
    def _update(self) -> None:
        logits = self._layers(self._first)[None]
        # A step of Adam hardly moves the centroid, and one of Newton's puts it back.
        steps = 6 if self._tilt is None else 1
        self._tilt = self._softmax.tilt(logits, self._tilt, steps)
        self._kernel = self._softmax(logits, self._tilt)


_NOISE_LENGTH = 200
# Keeps logarithms finite: of the misfit where a kernel fits exactly, in normalised intensity
# squared, and of a tap that holds nothing.
_FLOOR = 1e-8
