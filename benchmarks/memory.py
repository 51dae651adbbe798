"""Peak memory of a run over a lazy stack: it does not grow with the number of planes.

python -m benchmarks.memory --planes 10 100 1000
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_dkp import io
from napari_dkp.config import Settings
from napari_dkp.stack import Run


class Stack:
    """Planes of points that drift, blurred and counted when they are read; nothing is kept."""

    dtype = np.dtype(np.uint16)

    def __init__(self, n_planes: int, side: int) -> None:
        self.shape = (n_planes, side, side)

    def __getitem__(self, where: tuple[int | slice, ...]) -> np.ndarray:
        number = where[0]
        draws = np.random.default_rng(0)
        places = draws.integers(0, self.shape[1], (2, 400))
        points = np.zeros(self.shape[1:], np.float32)
        points[(places[0] + number) % self.shape[1], places[1]] = 4000
        noise = np.random.default_rng(number)
        counts = noise.poisson(gaussian_filter(points, 1.6) + 20)
        return counts.astype(np.uint16)[where[1:]]


def peak(n_planes: int, side: int, ending: str) -> float:
    """Restore so many planes into a file; return the peak of this process's memory, MiB."""
    stack = Stack(n_planes, side)
    run = Run(stack, Settings(axes="TYX", scale=1, method="richardson-lucy"), keep=False)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"restored{ending}"
        with io.create(path, shape=stack.shape, axes="TYX") as writer:
            for state in run:
                if state.done:
                    writer.write(state.plane, state.image)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the peak for each number of planes, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--ending", default=".ome.tif")
    parser.add_argument("--alone", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.alone:
        print(peak(options.planes[0], options.side, options.ending))
        return
    first = None
    for n_planes in options.planes:
        command = [sys.executable, "-m", "benchmarks.memory", "--alone", f"--planes={n_planes}"]
        command += [f"--side={options.side}", f"--ending={options.ending}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = float(output.split()[-1])
        first = first or found
        print(
            f"{n_planes:6d} planes: {found:7.1f} MiB, {found / first:.3f} of the first", flush=True
        )


if __name__ == "__main__":
    main()
