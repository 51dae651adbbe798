"""The two calls that most users need: all of a run, or each of its steps."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from tqdm import tqdm

from napari_dkp.config import (
    Boundary,
    DiffusionConfig,
    DIPConfig,
    KernelFamilyName,
    Method,
    NoiseConfig,
    OpticsConfig,
    Phase,
    PKEConfig,
    Precision,
    PresetName,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
    Settings,
)
from napari_dkp.stack import Run
from napari_dkp.state import Restoration, State


def iter_restore(
    image: Any,
    *,
    scale: int | tuple[int, ...] = 2,
    axes: str | None = None,
    volume: bool = False,
    method: Method = "auto",
    kernel_family: KernelFamilyName = "auto",
    kernel_size: int | tuple[int, ...] | None = None,
    kernel: np.ndarray | None = None,
    preset: PresetName = "balanced",
    iterations: int | None = None,
    phase: Phase = "area",
    boundary: Boundary = "free",
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 0,
    share_kernel: bool = True,
    tile: int | None = None,
    diagnostics: bool = False,
    optics: OpticsConfig | None = None,
    noise: NoiseConfig | None = None,
    rks: RKSConfig | None = None,
    pke: PKEConfig | None = None,
    search: SearchConfig | None = None,
    dip: DIPConfig | None = None,
    diffusion: DiffusionConfig | None = None,
    richardson_lucy: RichardsonLucyConfig | None = None,
) -> Iterator[State[np.ndarray]]:
    """Restore an image step by step: see every state, stop when satisfied.

    Parameters
    ----------
    image : numpy, dask, zarr or torch array of integers or floats.
    kernel : known PSF in HR pixels, shape (*K,); None finds it.
    scale, axes, volume, method, kernel_family, kernel_size, preset, iterations, phase, boundary, \
device, precision, seed, share_kernel, tile, diagnostics, optics, noise, rks, pke, search, dip, \
diffusion, richardson_lucy : as of `Settings`.

    Returns
    -------
    Iterator of `State`, one per image step. Arguments are checked at the call, not at the first
    step. Its memory goes when it ends, is closed, or is let go of.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used; the message names it.

    Examples
    --------
    >>> for state in iter_restore(image, scale=2):  # doctest: +SKIP
    ...     if state.residual < noise:
    ...         break
    """
    settings = Settings(
        scale=scale,
        axes=axes,
        volume=volume,
        method=method,
        kernel_family=kernel_family,
        kernel_size=kernel_size,
        preset=preset,
        iterations=iterations,
        phase=phase,
        boundary=boundary,
        device=device,
        precision=precision,
        seed=seed,
        share_kernel=share_kernel,
        tile=tile,
        diagnostics=diagnostics,
        optics=optics,
        noise=noise,
        rks=rks,
        pke=pke,
        search=search,
        dip=dip,
        diffusion=diffusion,
        richardson_lucy=richardson_lucy,
    )
    return iter(Run(image, settings, kernel))


def restore(
    image: Any,
    *,
    kernel: np.ndarray | None = None,
    progress: bool | Callable[[State[np.ndarray]], object] = False,
    **settings: Any,
) -> Restoration:
    """Restore an image: find the sharp image and the blur kernel that make it.

    Parameters
    ----------
    image : numpy, dask, zarr or torch array of integers or floats.
    kernel : known PSF in HR pixels, shape (*K,); None finds it.
    progress : True shows a bar; a function is called with every state.
    **settings : fields of `Settings`, e.g. ``scale=2, preset="fast"``.

    Returns
    -------
    Restoration
        Image in the input's intensity units, kernel, and what is needed to repeat the run.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used; the message names it.
    """
    run = Run(image, Settings(**settings), kernel)
    # Else a traceback that is kept would keep the run, and with it its memory.
    with closing(iter(run)) as states:
        if callable(progress):
            for state in states:
                progress(state)
        else:
            with tqdm(total=run.n_steps, unit="step", disable=not progress) as bar:
                for state in states:
                    bar.total = state.n_steps
                    bar.update(state.step - bar.n)
    return run.result()


def spell_out(function: Callable[..., object], like: Callable[..., object]) -> None:
    """Show the keywords of `like` in place of a function's **settings, to help() and completion."""
    own = inspect.signature(function)
    shown = dict(inspect.signature(like).parameters)
    for parameter in own.parameters.values():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            shown.setdefault(parameter.name, parameter)
    vars(function)["__signature__"] = own.replace(parameters=list(shown.values()))


spell_out(restore, like=iter_restore)
