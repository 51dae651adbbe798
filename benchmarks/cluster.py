"""Time two workers of one thread each against one worker of two, on the same planes.

    python -m benchmarks.cluster [--pairs 3] [--planes 16] [--side 128] [--method richardson-lucy]

Both kinds of cluster take turns, so that a machine that is doing other work is slow for both. The
throughput of the two workers, over that of the one, is printed per pair, and its median.
"""

import argparse
from collections.abc import Sequence
from statistics import median
from time import perf_counter

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from scipy import ndimage

from napari_dkp import restore_dask
from napari_dkp.config import METHODS

_WORKERS = {"two workers of one thread": (2, 1), "one worker of two threads": (1, 2)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, time, print."""
    options = _parser().parse_args(arguments)
    image = planes(options.planes, options.side)
    ratios = []
    for pair in range(options.pairs):
        names = list(_WORKERS)[:: -1 if pair % 2 else 1]
        seconds = {name: measure(*_WORKERS[name], image, options) for name in names}
        two, one = (seconds[name] for name in _WORKERS)
        ratios.append(one / two)
        figures = ", ".join(f"{name} {seconds[name]:.1f} s" for name in _WORKERS)
        print(f"{figures}: ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio of throughput {median(ratios):.2f}")


def measure(workers: int, threads: int, image: np.ndarray, options: argparse.Namespace) -> float:
    """Return seconds of a restoration on a cluster whose workers have restored before."""
    settings = {"method": options.method, "kernel_family": "gaussian", "device": "cpu", "scale": 1}
    with (
        LocalCluster(workers, threads_per_worker=threads, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for worker in client.scheduler_info()["workers"]:
            first = restore_dask(image[0], **settings, iterations=2)
            client.compute(first, workers=worker).result()
        restored = restore_dask(da.from_array(image), **settings, preset="fast")
        began = perf_counter()
        restored.compute()
        return perf_counter() - began


def planes(count: int, side: int) -> np.ndarray:
    """Return random blobs under photon noise, shape (count, side, side)."""
    generator = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(generator.random((count, side, side)) ** 20, (0, 2, 2))
    return generator.poisson(200 * blobs / blobs.max() + 2).astype(np.uint16)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--planes", type=int, default=16)
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--method", choices=METHODS, default="richardson-lucy")
    return parser


if __name__ == "__main__":
    main()
