"""Fields of frozen dataclasses, checked while these are made."""

import math

from napari_dkp import _checks


def store(config: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass to what its check made of it, while it is being made."""
    object.__setattr__(config, name, value)


def integer(config: object, name: str, low: int, high: int | None = None) -> None:
    """Refuse a field that is no integer inside [low, high]."""
    store(config, name, _checks.integer(name, getattr(config, name), low, high))


def number(config: object, name: str, low: float, high: float = math.inf) -> None:
    """Refuse a field that is no number inside [low, high]."""
    store(config, name, _checks.number(name, getattr(config, name), low, high))
