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

from napari_dkp.config import PKEConfig
from napari_dkp.degradation import Degradation, GramStatistics
from napari_dkp.kernels import fix_centroid
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
        self._centre = model.kernel_centre
        self._noise = (0.1 * torch.rand(_NOISE_LENGTH, generator=generator)).to(device)
        widths = [_NOISE_LENGTH, *config.hidden]
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            for fan_in, fan_out in pairwise(widths):
                layers += [nn.Linear(fan_in, fan_out), nn.ReLU6()]
            layers.append(nn.Linear(widths[-1], math.prod(self._shape)))
        self._network = nn.Sequential(*layers)
        initialise(self._network, generator)
        self._network.to(device)
        self._optimiser = torch.optim.Adam(
            self._network.parameters(), config.learning_rate, fused=device.type != "mps"
        )

    @torch.enable_grad()
    def warm_up_step(self, kernel: Tensor) -> None:
        """Move towards a random kernel, before any image is looked at."""
        self._descend(self._distance(self._kernel(), kernel))

    @torch.enable_grad()
    def step(self, prior: Tensor, statistics: GramStatistics) -> Tensor:
        """Do the Langevin steps of one outer iteration; return the kernel, shape (*K,).

        Parameters
        ----------
        prior : k_p of RKS, shape (*K,).
        statistics : of the latest image.
        """
        for _ in range(self._config.steps):
            kernel = self._kernel()
            # Eq. 10 as a log-likelihood with the noise variance maximised out, per sample: the
            # pull is the same for every intensity scale and does not fade where the prior fails.
            data = torch.log(statistics.misfit(kernel[None])[0] + _FLOOR).to(kernel)
            loss = self._distance(kernel, prior) + self._config.data_weight * data  # eqs. 11-12
            self._descend(loss)
        return self.kernel()

    @torch.no_grad()
    def kernel(self) -> Tensor:
        """Return the current kernel G_k(z; φ), shape (*K,)."""
        return self._kernel()

    def _kernel(self) -> Tensor:
        flat = torch.softmax(self._network(self._noise), 0)
        return fix_centroid(flat.reshape(1, *self._shape), self._centre)[0]

    def _distance(self, kernel: Tensor, target: Tensor) -> Tensor:
        """Return the distance to the prior (eq. 11): squared as published, or relative entropy.

        The squared distance hardly sees a pedestal, a little mass spread over many taps.
        """
        if self._config.distance == "squared":
            return (kernel - target).square().sum() / target.square().sum()
        surprise = -torch.log(kernel.clamp_min(_FLOOR))
        return (torch.xlogy(target, target) + target * surprise).sum()

    def _descend(self, loss: Tensor) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()


_NOISE_LENGTH = 200
# Keeps the logarithm finite where a kernel fits exactly, in normalised intensity squared.
_FLOOR = 1e-8
