"""A restoration as a lazy dask array: its planes are tasks, of threads or of a cluster."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from napari_dkp import tasks
from napari_dkp.api import iter_restore, spell_out
from napari_dkp.config import Settings
from napari_dkp.planes import as_array
from napari_dkp.stack import Run

if TYPE_CHECKING:
    import dask.array as da


@overload
def restore_dask(
    image: Any,
    *,
    kernel: np.ndarray | None = None,
    return_kernels: Literal[False] = False,
    **settings: Any,
) -> "da.Array": ...


@overload
def restore_dask(
    image: Any,
    *,
    kernel: np.ndarray | None = None,
    return_kernels: Literal[True],
    **settings: Any,
) -> "tuple[da.Array, da.Array]": ...


def restore_dask(
    image: Any,
    *,
    kernel: np.ndarray | None = None,
    return_kernels: bool = False,
    **settings: Any,
) -> "da.Array | tuple[da.Array, da.Array]":
    """Restore an image lazily: dask computes what is asked for, where its scheduler says.

    What the planes of a channel have in common is found by one task. Planes are restored by one
    task each; with method "dip" by one for up to twelve, as these are outputs of one network. The
    result is that of `restore`, as far as device, number of threads and tiles are the same.

    Tasks in one process take turns, each with all of its threads: those that a worker of
    `distributed` is given, elsewhere those that torch has. Device "auto" is that of the worker, and
    its memory is what decides on tiles where `tile` is None.

    Parameters
    ----------
    image : dask array, or anything that `restore` takes. A numpy array goes with the graph, plane
        by plane; others, such as zarr arrays, go as they are, and are read in the tasks.
    kernel : known PSF in HR pixels, shape (*K,); None finds it.
    return_kernels : also return the kernels.
    **settings : fields of `Settings`, e.g. ``scale=2, preset="fast"``.

    Returns
    -------
    image : float32 in the input's intensity units, its axes, spatial ones enlarged by the scale;
        one chunk per plane.
    kernels : if asked for. float32, shape (looped axes ..., *K); computed with their planes.

    Arguments are checked at the call. Where method or kernel family is "auto", one plane is then
    read to decide it; so is an image of one plane. Other planes are checked when they are restored,
    and what is done otherwise than planned goes to the log of the worker.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used, the message names it; ValueError also if there is no dask.

    Examples
    --------
    >>> restored = restore_dask(image, scale=2)  # doctest: +SKIP
    >>> restored[0].compute()  # doctest: +SKIP
    """
    task_graph = _load_task_graph()
    given = Settings(**settings)
    image = as_array(image)
    # Neither the device nor the memory of who calls counts, but of who restores.
    run = Run(image, replace(given, device="cpu", tile=given.tile or _WHOLE), kernel)
    job = tasks.Job(
        replace(run.settings, device=given.device, tile=given.tile),
        replace(run.layout),  # without what it has worked out
        np.dtype(image.dtype),
        None if kernel is None else np.asarray(as_array(kernel)),
    )
    graph = task_graph.TaskGraph(job, run, image)
    restored: da.Array = graph.array("restored", tasks.image_of, run.plane_shape, run.layout.axes)
    if not return_kernels:
        return restored
    axes = run.layout.looped + run.layout.spatial
    return restored, graph.array("kernels", tasks.kernel_of, run.kernel_shape, axes)


spell_out(restore_dask, like=iter_restore)

# Pixels: with tiles of that side, no plane is taken apart.
_WHOLE = 2**62


def _load_task_graph() -> Any:
    try:
        from napari_dkp import task_graph
    except ImportError:
        raise ValueError(
            "dask: restore_dask needs the extra 'distributed'. "
            "Install it with: pip install napari-dkp[distributed]"
        ) from None
    return task_graph
