"""Batches that are killed at random moments and gone on with, held against one nobody kills.

`python -m benchmarks.interruptions 20` kills twenty batches, twice each, and compares pixels,
kernels and reports.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from napari_dkp.config import DIPConfig, PKEConfig, RKSConfig, SearchConfig, Settings

METHODS = ("richardson-lucy", "dip")
FORMATS = ("ome-tiff", "ome-zarr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, go on, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    same = 0
    with TemporaryDirectory() as folder:
        trials = Trials(Path(folder))
        random = np.random.default_rng(options.seed)
        for number in range(options.rounds):
            method, form = METHODS[number % 2], FORMATS[number // 2 % 2]
            differing = trials.interrupted(method, form, random.uniform(0, 1, 2))
            same += not differing
            result = f"differs in {', '.join(differing)}" if differing else "identical"
            print(f"{number + 1}: {method}, {form}: {result}", flush=True)
    print(f"{same} of {options.rounds} identical, after {trials.kills} kills on the way")
    return 0 if same == options.rounds else 1


class Trials:
    """Batches over the same few images.

    Parameters
    ----------
    folder : for all files.

    Attributes
    ----------
    kills : how often a batch was killed before its end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inputs = folder / "inputs"
        self._count = 0
        self._wanted: dict[tuple[str, str], tuple[float, dict[str, bytes]]] = {}
        _write_images(self._inputs)
        self.kills = 0
        _started(int).join()  # the server's own start is not part of a batch

    def interrupted(self, method: str, form: str, moments: Sequence[float]) -> list[str]:
        """Kill a batch at each moment, let it end, and return the names of files that differ.

        Parameters
        ----------
        method, form : of the batch.
        moments : as shares of the time that it takes when nobody kills it.
        """
        if (method, form) not in self._wanted:
            began = perf_counter()
            out = self._run(method, form)
            self._wanted[method, form] = perf_counter() - began, contents(out)
        seconds, wanted = self._wanted[method, form]
        found = contents(self._run(method, form, [seconds * moment for moment in moments]))
        return sorted(name for name in wanted | found if wanted.get(name) != found.get(name))

    def _run(self, method: str, form: str, moments: Sequence[float] = ()) -> Path:
        self._count += 1
        out = self._folder / f"out{self._count}"
        for moment in moments:
            process = _started(restore, self._inputs, out, method, form)
            process.join(moment)
            process.kill()
            process.join()
            self.kills += process.exitcode != 0
        process = _started(restore, self._inputs, out, method, form)
        process.join()
        if process.exitcode:
            raise RuntimeError(f"the batch ended with {process.exitcode}")
        return out


def _started(target: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a process of its own, from a server that has torch imported: it begins at once."""
    kinds = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    if "forkserver" in kinds:
        context.set_forkserver_preload(["napari_dkp.batch"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def restore(inputs: Path, out: Path, method: str, form: str) -> None:
    """Run a batch to its end."""
    import torch

    from napari_dkp.batch import Batch

    torch.set_num_threads(1)
    batch = Batch([inputs], out, _settings(method), **{"format": form})
    for _ in batch:
        pass
    sys.exit(batch.n_failed)


def contents(out: Path) -> dict[str, bytes]:
    """Return by the name of the file what may not differ: pixels, and what is told but times."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(out).as_posix()
        if name.startswith("batch."):
            found[name] = b""
        elif name.endswith(".tif"):
            found[name] = tifffile.imread(path).tobytes()
        elif name.endswith("_settings.json"):
            told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            # Steps of planes that were under way are done again.
            found[name] = json.dumps({**told, "seconds": 0, "steps": 0}).encode()
        else:
            found[name] = path.read_bytes()
    return found


def _settings(method: str) -> Settings:
    return Settings(
        scale=1,
        method=method,
        iterations=6,
        kernel_family="gaussian",
        kernel_size=5,
        device="cpu",
        precision="float32",
        diagnostics=True,
        rks=RKSConfig(particles=16, every=2, updates=2),
        pke=PKEConfig(hidden=(16,), warm_up=5, steps=2),
        search=SearchConfig(rounds=2, steps=3, channels=4),
        dip=DIPConfig(channels=4),
    )


def _write_images(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    # Of fourteen planes, an untrained network restores twelve together.
    for name, axes, shape in (("a", "YX", ()), ("b", "ZYX", (14,)), ("c", "TCYX", (2, 2))):
        light = gaussian_filter(random.random((*shape, 40, 36)) ** 6, (*[0] * len(shape), 1.5, 1.5))
        counts = random.poisson(4000 * light).astype(np.uint16)
        tifffile.imwrite(folder / f"{name}.ome.tif", counts, metadata={"axes": axes})


if __name__ == "__main__":
    sys.exit(main())
