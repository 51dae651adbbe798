"""How image networks are fitted: Muon for convolutions, Adam for the rest."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from napari_dkp.adam import Adam, gradients
from napari_dkp.config import DIPConfig
from napari_dkp.restorers.networks import Hourglass


class Optimiser(Protocol):
    """Moves weights at a rate."""

    weights: list[Tensor]
    rate: float | Tensor

    def step(self) -> None:
        """Take one step by the gradients that the weights have."""


class Muon:
    """Steps along the nearest orthogonal matrix to the momentum (Jordan 2024).

    A convolution's weight counts as the matrix (out, in·k·k). With all singular values of the step
    alike, rare directions are learnt as fast as frequent ones.

    Parameters
    ----------
    weights : parameters of at least two axes.
    rate : spectral norm of a step, for matrices no taller than wide; a tensor is read at each step,
        without waiting for its device.
    momentum : decay of the running mean of gradients.
    """

    def __init__(
        self, weights: Iterable[Tensor], rate: float | Tensor, momentum: float = 0.95
    ) -> None:
        self.weights = list(weights)
        self.rate = rate
        self._momentum = momentum
        alike: dict[torch.Size, list[Tensor]] = {}
        for weight in self.weights:
            alike.setdefault(weight.flatten(1).shape, []).append(weight)
        self._batches = [
            (members, members[0].new_zeros(len(members), *shape))
            for shape, members in alike.items()
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; matrices of one shape together."""
        for weights, mean in self._batches:
            gradient = torch.stack([each.flatten(1) for each in gradients(weights)])
            mean.lerp_(gradient, 1 - self._momentum)
            look_ahead = torch.lerp(gradient, mean, self._momentum)
            rows, columns = mean.shape[1:]
            steps = orthogonalised(look_ahead) * max(1.0, rows / columns) ** 0.5
            for weight, step in zip(weights, steps, strict=True):
                weight.sub_(self.rate * step.reshape(weight.shape))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices of the same singular vectors whose singular values are about 1.

    Newton-Schulz iterations X ← (a + b A + c A²) X with A = X Xᵀ. Polynomials in A commute, so they
    are gathered on the small side. Rounding makes A indefinite and iterations magnify that, so A is
    computed anew half-way; this bears matrix products in TF32.

    Parameters
    ----------
    matrices : shape (B, m, n).

    Returns
    -------
    Tensor of the same shape; singular values lie in 0.68 to 1.21, those below two thousandths of
    the Frobenius norm excepted.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    identity = torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    a, b, c = _NEWTON_SCHULZ
    for steps in _NEWTON_SCHULZ_STEPS:
        gram = x @ x.mT
        product = identity
        for _ in range(steps):
            factor = a * identity + b * gram + c * gram @ gram
            product = factor @ product
            gram = factor @ gram @ factor
        x = product @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal


# Steepest at 0 among quintics that keep [0, 1] bounded: values need not become exactly 1.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# In blocks that share one A.
_NEWTON_SCHULZ_STEPS = (2, 3)


def make_optimisers(network: Hourglass, config: DIPConfig) -> list[Optimiser]:
    """Return the optimisers that the config names, each with its share of the parameters."""
    weights = list(network.parameters())
    device = weights[0].device
    rate: float | Tensor = config.learning_rate
    if device.type == "cuda":  # a graph would go on with the number that it was recorded with
        rate = torch.tensor(rate, dtype=torch.float32, device=device)
    if config.optimiser == "adam":
        return [Adam(weights, rate)]
    # The head's few rows are the image's channels: nothing to make orthogonal.
    matrices = [
        layer.weight
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and layer is not network.head
    ]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in weights if id(weight) not in chosen]
    return [Muon(matrices, rate), Adam(rest, rate)]


def set_learning_rate(optimisers: Iterable[Optimiser], rate: float) -> None:
    """Let optimisers go on with this learning rate."""
    for optimiser in optimisers:
        if isinstance(optimiser.rate, Tensor):
            optimiser.rate.fill_(rate)
        else:
            optimiser.rate = rate
