"""The one source of randomness: an explicit generator, never the global state."""

import torch
from torch import Generator, nn


def make_generator(seed: int) -> Generator:
    """Return a CPU generator: draws are the same on every device."""
    return torch.Generator().manual_seed(seed)


def initialise(module: nn.Module, generator: Generator) -> None:
    """Draw every weight from a generator, by torch's own rule for the layer.

    Uniform in ±1/√fan_in for weights and biases of linear and convolution layers; the global
    random state is neither read nor moved.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
            bound = layer.weight[0].numel() ** -0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
