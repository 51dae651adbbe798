"""A result that is computed as it is looked at: its kernel is found, the rest is left to dask."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_dkp._napari.job import Ended
from napari_dkp._napari.layers import result_layers
from napari_dkp._napari.place import shape_and_type
from napari_dkp._napari.progress import Watch
from napari_dkp._napari.source import Source
from napari_dkp._napari.work import Work
from napari_dkp.config import Settings
from napari_dkp.layout import Layout
from napari_dkp.state import Restoration, Stop

_NOTE = "Planes are computed as they are looked at. Save the layer to have all of them."
_OWN_KERNELS = "Planes have kernels of their own; shown is that of the plane first looked at."


class LazyJob(Work):
    """Finds what the planes of a layer have in common, and restores the one that is looked at.

    That is one step per channel. A run that is stopped before the last of them has no result.

    Parameters
    ----------
    source : what to restore.
    settings : of the run, with axes.
    kernel : known point spread function, or None.
    shown : the plane on screen, as in `State.plane`.
    """

    def __init__(
        self, source: Source, settings: Settings, kernel: np.ndarray | None, shown: Sequence[int]
    ) -> None:
        steps = self._work(source, settings, kernel, tuple(shown))
        super().__init__(source.name, settings.device, steps)

    def _work(
        self,
        source: Source,
        settings: Settings,
        kernel: np.ndarray | None,
        shown: tuple[int, ...],
    ) -> Generator[None, None, Ended | None]:
        import dask.array as da

        from napari_dkp.cluster import restore_dask

        watch = Watch()
        fields: dict[str, Any] = vars(settings)
        image, kernels = restore_dask(source.pixels(), kernel=kernel, return_kernels=True, **fields)
        layout = Layout(source.axes, source.shape, source.spatial)
        yield None
        found = np.empty(kernels.shape, np.float32)
        # Those of a channel share one; what it takes to find them is kept for all planes.
        at = layout.looped.find("C")
        for channel in range(layout.channels):
            index = tuple(channel if i == at else n for i, n in enumerate(shown))
            same = tuple(channel if i == at else slice(None) for i in range(len(index)))
            found[same] = kernels[index].compute(scheduler="threads")
            yield None
            if self.is_ending:
                return None
        if source.rgb:
            dtype = shape_and_type(source, settings)[1]
            colours = _Colours(source, settings.scales(len(source.spatial)))
            image = da.map_blocks(
                colours, image, dtype=dtype, meta=np.empty((0,) * image.ndim, dtype)
            )
        result = Restoration(
            image=image,  # type: ignore[arg-type]
            kernel=found,
            settings=settings,
            seed=settings.seed,
            device=settings.device,
            seconds=watch.elapsed,
            stop=Stop.COMPLETED,
            history=(),
            steps=0,
            known_kernel=kernel is not None,
            notes=(_NOTE,) if settings.share_kernel else (_NOTE, _OWN_KERNELS),
        )
        return Ended(result_layers(source, result), ())


@dataclass(frozen=True)
class _Colours:
    """Puts the colours of a chunk into the type that napari draws; they have no alpha."""

    source: Source
    scales: Sequence[int]

    def __call__(self, chunk: np.ndarray) -> np.ndarray:
        return self.source.displayed(chunk, None, self.scales)
