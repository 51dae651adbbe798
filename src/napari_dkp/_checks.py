"""The one place where input is checked.

Every message names the argument, says what was expected and what came.
"""

from collections.abc import Collection, Sequence
from operator import index
from typing import SupportsFloat, SupportsIndex

import numpy as np


def choice(name: str, value: object, options: Collection[str]) -> str:
    """Return `value` if it is one of `options`, else raise ValueError."""
    if not isinstance(value, str) or value not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ValueError(f"{name}: expected one of {listed}; got {value!r}")
    return value


def integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` as an int inside [low, high]."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name}: expected an integer; got {_describe(value)}")
    value = index(value)
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name}: expected an integer {bounds}; got {value}")
    return value


def number(name: str, value: object, low: float, high: float = np.inf) -> float:
    """Return `value` as a finite float inside [low, high]."""
    if isinstance(value, bool | str) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{name}: expected a number; got {_describe(value)}")
    value = float(value)
    if not np.isfinite(value) or not low <= value <= high:
        bounds = f"of at least {low:g}" if high == np.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"{name}: expected a finite number {bounds}; got {value}")
    return value


def interval(name: str, value: object, low: float, high: float = np.inf) -> tuple[float, float]:
    """Return `value` as an increasing pair of floats inside [low, high]."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{name}: expected a pair (low, high); got {_describe(value)}")
    first, last = (number(name, bound, low, high) for bound in value)
    if first > last:
        raise ValueError(f"{name}: expected low <= high; got ({first:g}, {last:g})")
    return first, last


def per_axis(name: str, value: object, low: int, high: int | None = None) -> int | tuple[int, ...]:
    """Return an integer, or a tuple of one integer per spatial axis."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = tuple(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise ValueError(f"{name}: expected one integer per spatial axis; got an empty list")
        return tuple(integer(name, item, low, high) for item in value)
    return integer(name, value, low, high)


def axes(name: str, value: object, ndim: int | None = None) -> str:
    """Return `value` if its letters name the axes of an image, of `ndim` axes where given."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string such as 'TCZYX'; got {_describe(value)}")
    if set(value) - set("TCZYX") or len(set(value)) != len(value) or not {"Y", "X"} <= set(value):
        raise ValueError(
            f"{name}: expected distinct letters out of T, C, Z, Y, X, with Y and X; got {value!r}"
        )
    if ndim is not None and len(value) != ndim:
        raise ValueError(f"{name}: expected {ndim} letters, one per axis; got {value!r}")
    return value


def real_dtype(name: str, dtype: np.dtype) -> None:
    """Refuse every dtype that is neither integer nor floating."""
    if dtype.kind not in "iuf":
        what = {"b": "boolean", "c": "complex", "O": "object"}.get(dtype.kind, str(dtype))
        hint = {
            "b": "; restore the grey image the mask was made from",
            "c": "; pass its magnitude, numpy.abs(image)",
        }.get(dtype.kind, "")
        raise TypeError(f"{name}: expected integer or floating values; got {what}{hint}")


def finite(name: str, values: np.ndarray) -> None:
    """Refuse NaN and infinity, saying how many there are and what to do."""
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name}: expected no masked values; got {int(np.ma.getmaskarray(values).sum())} of "
            f"{values.size}. Fill them first, e.g. image.filled(numpy.ma.median(image))"
        )
    if values.dtype.kind != "f":
        return
    nans = int(np.isnan(values).sum())
    infinities = int(np.isinf(values).sum())
    if nans or infinities:
        found = " and ".join(
            f"{count} {word}" for count, word in ((nans, "NaN"), (infinities, "infinite")) if count
        )
        raise ValueError(
            f"{name}: expected finite values; got {found} of {values.size}. Fill them first, e.g. "
            "image = numpy.where(numpy.isfinite(image), image, numpy.nanmedian(image)), or crop to "
            "a region without them"
        )


def within_float32(name: str, values: np.ndarray) -> None:
    """Refuse values whose size or contrast single precision cannot hold."""
    low, high = float(values.min()), float(values.max())
    if max(abs(low), abs(high)) > _LARGEST or 0 < high - low < 1 / _LARGEST:
        raise ValueError(
            f"{name}: expected values up to {_LARGEST:g} with a contrast of at least "
            f"{1 / _LARGEST:g}; got {low:g} to {high:g}. Rescale them first"
        )


# Leaves float32, up to 3.4e38, room for what restoration adds.
_LARGEST = 1e37


def varying(name: str, values: np.ndarray) -> None:
    """Refuse a constant image: it holds nothing that a kernel could be found from."""
    if values.size and values.min() == values.max():
        raise ValueError(
            f"{name}: expected an image with contrast; every value is {values.flat[0]}"
        )


def psf(name: str, values: np.ndarray, ndim: int) -> np.ndarray:
    """Return a known PSF as float32 that sums to 1, shape (K, ...) with `ndim` axes."""
    values = np.asarray(values)
    real_dtype(name, values.dtype)
    if values.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, one per spatial axis; got {values.ndim}")
    if not values.size:
        raise ValueError(f"{name}: expected at least one value; got shape {values.shape}")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name}: expected finite values; got {bad} NaN or infinite")
    values = values.astype(np.float64)
    if values.min() < 0:
        count = int((values < 0).sum())
        raise ValueError(f"{name}: expected non-negative values; got {count} negative")
    if not values.any():
        raise ValueError(f"{name}: expected a positive sum; got an all-zero kernel")
    values = values / values.max()  # so that the sum of huge values stays finite
    normalised: np.ndarray = (values / values.sum()).astype(np.float32)
    return normalised


def not_smaller_than_kernel(
    name: str, lr_shape: Sequence[int], scale: Sequence[int], kernel_shape: Sequence[int]
) -> None:
    """Refuse an image whose restored size is below the kernel's along some axis."""
    hr_shape = tuple(s * n for s, n in zip(scale, lr_shape, strict=True))
    if any(n < k for n, k in zip(hr_shape, kernel_shape, strict=True)):
        raise ValueError(
            f"{name}: expected a plane that, enlarged by the scale, is no smaller than the kernel "
            f"{tuple(kernel_shape)}; got {tuple(lr_shape)}, enlarged {hr_shape}. "
            "Choose a larger region or a smaller kernel_size"
        )


def _describe(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"
