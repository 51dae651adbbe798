"""Adam (Kingma and Ba 2015) by torch's kernels, without what `torch.optim.Adam` imports."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """The steps of `torch.optim.Adam`, done by the same kernels.

    Making an optimiser of torch's imports its compiler, which takes seconds.

    Parameters
    ----------
    weights : parameters, all on one device.
    rate : learning rate; a tensor is read at each step, without waiting for its device.
    """

    def __init__(self, weights: Iterable[Tensor], rate: float | Tensor) -> None:
        self.weights = list(weights)
        self.rate = rate
        self._fused = not any(weight.is_mps for weight in self.weights)
        self._on_cuda = any(weight.is_cuda for weight in self.weights)
        self._means = [torch.zeros_like(weight) for weight in self.weights]
        self._squares = [torch.zeros_like(weight) for weight in self.weights]
        # Kernels that are not fused read the number of steps on the host.
        homes = [weight.device if self._fused else "cpu" for weight in self.weights]
        self._counts = [torch.zeros((), device=home) for home in homes]

    @torch.no_grad()
    def step(self) -> None:
        """Take one step down the gradients that the weights have."""
        adam(
            self.weights,
            gradients(self.weights),
            self._means,
            self._squares,
            [],
            self._counts,
            fused=self._fused,
            capturable=self._on_cuda,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def gradients(weights: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradients of weights.

    Raises
    ------
    ValueError
        If one has none.
    """
    found = []
    for weight in weights:
        if weight.grad is None:
            raise ValueError("weights: expected a gradient for each; call backward() first")
        found.append(weight.grad)
    return found
