"""What planes of a stack, and tiles of a plane, have in common: it is found once."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Route(NamedTuple):
    """How a Richardson–Lucy image came to its least risk.

    Attributes
    ----------
    extrapolations : along the last change, of each half, after every step: share of it.
    penalised : strengths of the penalties that then helped, and the steps under each.
    """

    extrapolations: tuple[tuple[float, float], ...]
    penalised: tuple[tuple[float, int], ...]

    @property
    def steps(self) -> int:
        """Image steps on the way."""
        return len(self.extrapolations) + sum(steps for _, steps in self.penalised)


class Plan(NamedTuple):
    """What is found on a few pieces, and what the whole is restored by.

    Attributes
    ----------
    kernel : float32, shape (*K,).
    route : of method "richardson-lucy", else None.
    steps : image steps of every restoration; None for as many as are usual.
    width_spread : posterior standard deviation of the logarithm of the kernel's width; None where
        it is not known.
    """

    kernel: np.ndarray
    route: Route | None = None
    steps: int | None = None
    width_spread: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values only, which lose nothing."""
        route = self.route and {name: list(part) for name, part in self.route._asdict().items()}
        return self._asdict() | {"kernel": self.kernel.tolist(), "route": route}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """Read back what `to_dict` wrote, also after a trip through JSON."""
        route = values["route"]
        if route is not None:
            ways, penalised = (map(tuple, route[name]) for name in Route._fields)
            route = Route(tuple(ways), tuple(penalised))
        kernel = np.asarray(values["kernel"], np.float32)
        return cls(kernel, route, values["steps"], values["width_spread"])
