import gc
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from click.testing import Result
from PIL import Image
from scipy.ndimage import gaussian_filter
from tiny import settings
from typer.testing import CliRunner

from napari_dkp import cli, io, restore, tile_size
from napari_dkp.batch import Batch, Event, running
from napari_dkp.batch.inputs import find, names
from napari_dkp.batch.where import where
from napari_dkp.config import Settings
from napari_dkp.io import planes
from napari_dkp.plan import Plan, Route
from napari_dkp.stack import Run
from napari_dkp.state import State
from napari_dkp.streaming.notebook import Findings, Notebook

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks are no part of the package

from benchmarks.interruptions import Trials, contents

PSF = np.outer([1, 2, 4, 2, 1], [1, 2, 4, 2, 1]).astype(np.float32) / 100
COUNTING = Settings(scale=1, method="richardson-lucy", iterations=2, device="cpu")
DIP = settings(scale=1, method="dip", kernel_family="gaussian", iterations=3)


def image(*shape: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    light = gaussian_filter(random.random(shape) ** 6, (*[0] * (len(shape) - 2), 1.5, 1.5))
    return random.poisson(4000 * light).astype(np.uint16)


def save(path: Path, *shape: int, axes: str = "ZYX", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = image(*shape, seed=seed)
    tifffile.imwrite(path, data, imagej=True, metadata={"axes": axes[-data.ndim :]})
    return path


def run(batch: Batch) -> list[Event]:
    return list(batch)


def counting(inputs: object, out: Path, **options: object) -> Batch:
    """A batch that takes next to no time, as the kernel is known."""
    return Batch(inputs, out, **({"settings": COUNTING, "kernel": PSF} | options))


def statuses(batch: Batch) -> list[str]:
    return [outcome.status for outcome in batch.outcomes]


def listed(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


# --- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "kernel"), [(COUNTING, PSF), (DIP, None)], ids=["richardson-lucy", "dip"]
)
@pytest.mark.parametrize(("form", "ending"), [("ome-tiff", ".ome.tif"), ("ome-zarr", ".ome.zarr")])
def test_results_are_those_of_restore(tmp_path, chosen, kernel, form, ending):
    path = save(tmp_path / "in" / "cells.tif", 3, 24, 20)
    batch = Batch([path], tmp_path / "out", chosen, kernel=kernel, format=form)
    events = run(batch)
    assert statuses(batch) == ["done"], batch.outcomes
    wanted = restore(image(3, 24, 20), kernel=kernel, **vars(replace(chosen, axes="ZYX")))
    back = io.read(tmp_path / "out" / f"cells{ending}")
    np.testing.assert_array_equal(back.image, wanted.image)
    kernels = io.read(tmp_path / "out" / "cells_kernel.tif").image
    np.testing.assert_array_equal(np.broadcast_to(kernels, wanted.kernel.shape), wanted.kernel)
    stored, _ = io.read_settings(tmp_path / "out" / "cells_settings.json")
    assert stored == wanted.settings
    assert listed(tmp_path / "out") == sorted(
        [f"cells{ending}", "cells_kernel.tif", "cells_settings.json", "batch.json", "batch.md"]
    )
    assert events[-1].outcome is batch.outcomes[0]
    done = [event.planes for event in events if event.state and event.state.done]
    assert done == [1, 2, 3]


def test_diagnostics_are_written_plane_by_plane_too(tmp_path):
    data = image(3, 24, 20)
    data[1] = 7  # without contrast: nothing to diagnose
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, data, imagej=True, metadata={"axes": "ZYX"})
    chosen = replace(COUNTING, diagnostics=True, scale=2, axes="ZYX")
    batch = counting([path], tmp_path / "out", settings=chosen)
    run(batch)
    assert statuses(batch) == ["done"], batch.outcomes
    wanted = restore(data, kernel=PSF, **vars(chosen))
    for name in ("residual", "uncertainty"):
        back = io.read(tmp_path / "out" / f"cells_{name}.ome.tif").image
        np.testing.assert_array_equal(back, getattr(wanted, name))
    assert "without contrast, which hold their source: 1" in " ".join(batch.outcomes[0].notes)


def test_planes_that_are_done_are_let_go_of(tmp_path):
    path = save(tmp_path / "cells.tif", 8, 24, 20)
    alive = []
    for event in counting([path], tmp_path / "out"):
        if event.state is not None and event.state.done and event.planes in (2, 8):
            del event
            gc.collect()
            alive.append(sum(issubclass(type(each), State) for each in gc.get_objects()))
    assert alive[1] <= alive[0]


@pytest.mark.parametrize("form", ["ome-tiff", "ome-zarr"])
def test_files_are_closed_before_their_folder_goes(tmp_path, monkeypatch, form):
    """Windows would not remove it, and a result that is whole would count as failed."""
    path = save(tmp_path / "cells.tif", 2, 24, 20)
    remove, left_open = planes.remove_partial, []

    def watched(of: Path) -> None:
        folder = str(io.partial_of(of))
        files = [each.path for each in psutil.Process().open_files()]
        left_open.append([name for name in files if name.startswith(folder)])
        remove(of)

    monkeypatch.setattr(planes, "remove_partial", watched)
    batch = counting([path], tmp_path / "out", format=form)
    run(batch)
    assert statuses(batch) == ["done"], batch.outcomes
    assert left_open == [[], []], "of the kernel and of the image"


@pytest.mark.parametrize(("axes", "shape"), [("CYX", (2, 24, 20)), ("TCZYX", (2, 2, 2, 24, 20))])
def test_axes_and_channels_come_from_the_file(tmp_path, axes, shape):
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, image(*shape), metadata={"axes": axes})
    run(counting([path], tmp_path / "out"))
    back = io.read(tmp_path / "out" / "cells.ome.tif")
    assert (back.axes, back.image.shape) == (axes, shape)


def test_colours_and_pixel_size_are_kept(tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
    Image.fromarray(data).save(tmp_path / "photo.png")
    run(counting([tmp_path / "photo.png"], tmp_path / "out", settings=replace(COUNTING, scale=2)))
    back = io.read(tmp_path / "out" / "photo.ome.tif")
    assert (back.axes, back.image.shape) == ("YXC", (48, 40, 3))
    tifffile.imwrite(
        tmp_path / "cells.ome.tif",
        image(24, 20),
        metadata={"axes": "YX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2},
    )
    path, two = tmp_path / "cells.ome.tif", replace(COUNTING, scale=2)
    run(counting([path], tmp_path / "out", settings=two))
    size = io.read(tmp_path / "out" / "cells.ome.tif").pixel_size
    assert size.sizes == pytest.approx({"Y": 0.1, "X": 0.1})


# --- which files, and their names ----------------------------------------------------------------


def test_files_folders_and_patterns(tmp_path):
    for name in ("a.tif", "b.ome.tiff", "c.PNG", "notes.txt", ".hidden.tif", "deep/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "e.zarr" / "inner.zarr").mkdir(parents=True)
    found = [path.name for path in find([tmp_path])]
    assert found == ["a.tif", "b.ome.tiff", "c.PNG", "e.zarr"]
    assert [path.name for path in find([tmp_path], recursive=True)][3] == "d.jpg"
    both = [tmp_path / "c.PNG", tmp_path / "*.tif*", tmp_path / "a.tif"]
    assert [path.name for path in find(both)] == ["c.PNG", "a.tif", "b.ome.tiff"]
    missing = [tmp_path / "gone.tif", tmp_path / "*.lif"]
    assert find(missing) == missing
    (tmp_path / "empty").mkdir()
    assert find([tmp_path / "empty"]) == [tmp_path / "empty"]


@pytest.mark.parametrize(
    ("paths", "called"),
    [
        (["a.tif", "b.ome.tif", "c.ome.zarr", "d.e.png"], ["a", "b", "c", "d.e"]),
        (["a.tif", "a.png"], ["a_tif", "a_png"]),
        (["a.tif", "a.ome.tif"], ["a_tif", "a_ome_tif"]),
        (["x/a.tif", "y/A.tif", "b.tif"], ["x_a", "y_A", "b"]),
        (["x/z/a.tif", "y/z/a.tif"], ["x_z_a", "y_z_a"]),
        (["x/a.tif", "x/a.png", "y/a.tif"], ["x_a_tif", "x_a_png", "y_a_tif"]),
        (["a.tif", "a_residual.tif"], ["a", "a_residual_2"]),
        (["x/a.tif", "y/a.tif", "x_a.tif"], ["x_a", "y_a", "x_a_2"]),
    ],
)
def test_results_of_the_same_name_are_told_apart(paths, called):
    assert names([Path("/data") / path for path in paths]) == called


def test_same_names_do_not_replace_each_other(tmp_path):
    paths = [save(tmp_path / day / "cells.tif", 24, 20, seed=i) for i, day in enumerate("ab")]
    batch = counting(paths, tmp_path / "out")
    run(batch)
    assert statuses(batch) == ["done", "done"]
    images = [io.read(tmp_path / "out" / f"{day}_cells.ome.tif").image for day in "ab"]
    assert not np.array_equal(*images)


def test_results_are_no_inputs(tmp_path):
    save(tmp_path / "in" / "a.tif", 24, 20)
    run(counting([tmp_path / "in"], tmp_path / "in" / "out", recursive=True))
    again = counting([tmp_path / "in"], tmp_path / "in" / "out", recursive=True)
    run(again)
    assert statuses(again) == ["skipped"]
    assert "left out: 2" in (tmp_path / "in" / "out" / "batch.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="inputs: expected an image that is not in"):
        counting([tmp_path / "in" / "out"], tmp_path / "in" / "out")


def test_arguments_are_checked_at_once(tmp_path):
    path = save(tmp_path / "a.tif", 24, 20)
    with pytest.raises(ValueError, match="format: expected one of"):
        counting([path], tmp_path / "out", format="png")
    with pytest.raises(ValueError, match="kernel"):
        counting([path], tmp_path / "out", kernel=np.zeros((4, 4)))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"out: expected a folder; 'a\.tif' is a file"):
        counting([save(tmp_path / "b.tif", 24, 20)], path)


# --- bad files -----------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, str]:
    """Write files that cannot be restored; what is said of each."""
    whole = save(folder / "whole.tif", 4, 64, 60).read_bytes()
    (folder / "whole.tif").unlink()
    (folder / "truncated.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.tif").touch()
    (folder / "text.tif").write_text("no image")
    (folder / "text.png").write_text("no image")
    (folder / "list.csv").write_text("1,2")
    save(folder / "pixel.tif", 1, 1)
    tifffile.imwrite(folder / "constant.tif", np.ones((24, 20), np.uint8))
    holes = image(3, 24, 20).astype(np.float32)
    holes[2, :2, :3] = np.nan
    tifffile.imwrite(folder / "holes.tif", holes, photometric="minisblack")
    tifffile.imwrite(folder / "complex.tif", np.ones((24, 20), np.complex64))
    with warnings.catch_warnings(action="ignore"):  # of what is no image
        tifffile.imwrite(folder / "none.tif", np.ones((0, 24, 20), np.uint8))
    (folder / "group.zarr").mkdir()
    return {
        "truncated.tif": "cut off",
        "empty.tif": "cannot be read as an image",
        "text.tif": "cannot be read as an image",
        "text.png": "cannot be read as an image",
        "list.csv": "cannot be read as an image",
        "pixel.tif": "image: expected",
        "constant.tif": "image: expected",
        "holes.tif": "6 NaN",
        "complex.tif": "image: expected",
        "none.tif": "",
        "group.zarr": "is a folder",
        "missing.tif": "there is no file",
    }


def test_fifty_files_good_and_bad(tmp_path):
    folder = tmp_path / "in"
    good = [save(folder / f"good{i}.tif", 24, 20, seed=i) for i in range(38)]
    reasons = bad_files(folder)
    inputs = [*good, *(folder / name for name in reasons)]
    order = np.random.default_rng(0).permutation(len(inputs))
    batch = counting([inputs[i] for i in order], tmp_path / "out")
    assert len(batch.jobs) == 50
    run(batch)
    found = {outcome.source.name: outcome for outcome in batch.outcomes}
    assert all(found[path.name].status == "done" for path in good)
    for name, reason in reasons.items():
        assert found[name].status == "failed", name
        assert reason in found[name].sentence
        assert not found[name].trace, found[name].trace
    assert batch.n_failed == 12
    stems = [path.stem for path in good]
    kinds = (".ome.tif", "_kernel.tif", "_settings.json")
    wanted = [f"{stem}{kind}" for stem in stems for kind in kinds]
    assert listed(tmp_path / "out") == sorted([*wanted, "batch.json", "batch.md"])
    told = json.loads((tmp_path / "out" / "batch.json").read_text(encoding="utf-8"))
    assert told["totals"]["done"] == told["totals"]["planes"] == 38
    assert told["totals"]["failed"] == 12
    again = counting(inputs, tmp_path / "out")
    run(again)
    assert statuses(again) == ["skipped"] * 38 + ["failed"] * 12


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_locked_file_is_said(tmp_path):
    path = save(tmp_path / "a.tif", 24, 20)
    path.chmod(0)
    batch = counting([path], tmp_path / "out")
    run(batch)
    assert "may not be read, or is locked" in batch.outcomes[0].sentence


@pytest.mark.parametrize(
    ("error", "said", "traced"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "more memory than", False),
        (MemoryError(), "more memory than", False),
        (KeyError("oops"), "An error of napari-dkp: KeyError", True),
    ],
)
def test_errors_in_one_file_are_that_files(tmp_path, monkeypatch, error, said, traced):
    paths = [save(tmp_path / f"{name}.tif", 2, 24, 20) for name in "ab"]
    real = running.Stream

    class Failing(real):
        def __iter__(self):
            for state in super().__iter__():
                yield state
                if state.done and self._outputs.image.name == "a.ome.tif":
                    raise error

    monkeypatch.setattr(running, "Stream", Failing)
    batch = counting(paths, tmp_path / "out")
    run(batch)
    assert statuses(batch) == ["failed", "done"]
    first = batch.outcomes[0]
    assert said in first.sentence
    assert bool(first.trace) == traced
    assert (first.planes, first.n_planes) == (1, 2)
    monkeypatch.setattr(running, "Stream", real)
    again = counting(paths, tmp_path / "out")  # goes on with the second plane
    assert "1 of 2 planes were done before." in {event.note for event in again}
    assert statuses(again) == ["done", "skipped"]


# --- what is done, and what is not ---------------------------------------------------------------


def test_done_files_are_skipped_and_others_refused(tmp_path):
    path = save(tmp_path / "a.tif", 24, 20)
    out = tmp_path / "out"
    run(counting([path], out))
    before = (out / "a.ome.tif").stat().st_mtime_ns
    again = counting([path], out)
    run(again)
    assert statuses(again) == ["skipped"]
    assert again.outcomes[0].summary
    other = replace(COUNTING, seed=1)
    refused = counting([path], out, settings=other)
    run(refused)
    assert statuses(refused) == ["failed"]
    assert "with other settings" in refused.outcomes[0].sentence
    save(path, 24, 20, seed=3)
    changed = counting([path], out)
    run(changed)
    assert statuses(changed) == ["failed"]
    assert (out / "a.ome.tif").stat().st_mtime_ns == before
    replaced = counting([path], out, settings=other, overwrite=True)
    run(replaced)
    assert statuses(replaced) == ["done"]
    twice = counting([path], out, settings=other, overwrite=True)
    run(twice)
    assert statuses(twice) == ["skipped"]


def test_files_of_others_are_not_replaced(tmp_path):
    path = save(tmp_path / "a.tif", 24, 20)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_kernel.tif").write_text("precious")
    batch = counting([path], tmp_path / "out")
    run(batch)
    assert "exists already" in batch.outcomes[0].sentence
    assert (tmp_path / "out" / "a_kernel.tif").read_text() == "precious"
    assert listed(tmp_path / "out") == ["a_kernel.tif", "batch.json", "batch.md"]


def stopped(batch: Batch, planes: int) -> None:
    """Run until so many planes of a file are on the disk."""
    events = iter(batch)
    for event in events:
        if event.planes == planes and event.state is not None:
            break
    events.close()


def test_partial_results_of_other_settings_are_not_mixed(tmp_path):
    path, out = save(tmp_path / "a.tif", 3, 24, 20), tmp_path / "out"
    first = counting([path], out)
    stopped(first, 1)
    assert statuses(first) == ["stopped"]
    assert (first.outcomes[0].planes, first.outcomes[0].n_planes) == (1, 3)
    other = replace(COUNTING, seed=1)
    refused = counting([path], out, settings=other)
    run(refused)
    assert "was begun from another input, with other settings" in refused.outcomes[0].sentence
    anew = counting([path], out, settings=other, overwrite=True)
    assert not [event for event in anew if "done before" in event.note]
    assert statuses(anew) == ["done"]


def test_a_kernel_that_was_found_is_not_sought_again(tmp_path, monkeypatch):
    path, out = save(tmp_path / "a.tif", 3, 24, 20), tmp_path / "out"
    chosen = replace(COUNTING, kernel_family="gaussian")
    whole = Batch([path], tmp_path / "whole", chosen)
    run(whole)
    stopped(Batch([path], out, chosen), 1)
    monkeypatch.setattr(Run, "_pilot", None)  # calling it would be a TypeError
    batch = Batch([path], out, chosen)
    run(batch)
    assert statuses(batch) == ["done"], batch.outcomes
    for name in ("a.ome.tif", "a_kernel.tif"):
        first, second = (io.read(each / name).image for each in (out, tmp_path / "whole"))
        np.testing.assert_array_equal(first, second)


def test_memory_does_not_decide_on_what_is_left_of_a_file(tmp_path, monkeypatch):
    """It has shrunk since: a plane that was whole stays whole, as in a run without a break."""
    path, out = save(tmp_path / "a.tif", 3, 90, 70), tmp_path / "out"
    run(counting([path], tmp_path / "whole"))
    stopped(counting([path], out), 1)
    monkeypatch.setattr(tile_size, "_SURELY_FREE", 0)
    monkeypatch.setattr(tile_size, "free_memory", lambda _: 10**6)
    batch = counting([path], out)
    run(batch)
    assert statuses(batch) == ["done"], batch.outcomes
    wanted, found = (
        (io.read(each / "a.ome.tif").image, io.read_settings(each / "a_settings.json")[0])
        for each in (tmp_path / "whole", out)
    )
    np.testing.assert_array_equal(found[0], wanted[0])
    assert found[1] == wanted[1]


def test_a_bad_plane_leaves_those_before_it_on_the_disk(tmp_path):
    planes = image(4, 24, 20).astype(np.float32)
    planes[3, 5, 5] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", planes, imagej=True, metadata={"axes": "TYX"})
    chosen = replace(COUNTING, share_kernel=False)
    batch = counting([tmp_path / "a.tif"], tmp_path / "out", settings=chosen)
    run(batch)
    (outcome,) = batch.outcomes
    assert (outcome.status, outcome.planes) == ("failed", 3)
    assert "plane (3,): expected finite values" in outcome.sentence


def test_planes_restored_together_are_done_again_but_not_written_twice(tmp_path):
    path, out = save(tmp_path / "a.tif", 14, 24, 20), tmp_path / "out"
    run(Batch([path], tmp_path / "whole", DIP))
    stopped(Batch([path], out, DIP), 4)  # of a block of twelve
    stopped(Batch([path], out, DIP), 13)
    batch = Batch([path], out, DIP)
    run(batch)
    assert statuses(batch) == ["done"], batch.outcomes
    wanted, found = contents(tmp_path / "whole"), contents(out)
    assert found == wanted


def test_what_is_noted_loses_nothing(tmp_path):
    kernel = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    route = Route(((0.1, 1 / 3), (0.0, 1e-9)), ((0.3, 4),))
    plans = {0: Plan(kernel, route, None, 0.1), 2: Plan(kernel, steps=4)}
    findings = Findings(DIP.resolve(), "why", "cpu", ("note",), plans)
    notebook = Notebook(tmp_path)
    notebook.keep(findings)
    notebook.close()
    back = Notebook.findings(tmp_path)
    assert (back.settings, back.choice, back.notes) == (DIP.resolve(), "why", ("note",))
    assert back.plans[0].route == route
    for channel, plan in plans.items():
        np.testing.assert_array_equal(back.plans[channel].kernel, kernel)
        assert back.plans[channel][1:] == plan[1:]


def test_another_device_is_said(tmp_path):
    path, out = save(tmp_path / "a.tif", 3, 24, 20), tmp_path / "out"
    stopped(counting([path], out), 1)
    file = out / ".a.ome.tif.partial" / "findings.json"
    file.write_text(
        file.read_text().replace('"device": "cpu", "notes"', '"device": "cuda", "notes"')
    )
    batch = counting([path], out)
    run(batch)
    assert "Begun on cuda, gone on with on cpu." in batch.outcomes[0].notes


# --- processes that die --------------------------------------------------------------------------


def test_kill_at_a_random_moment_and_go_on(tmp_path):
    moments = np.random.default_rng().uniform(0, 1, 1)
    assert Trials(tmp_path).interrupted("dip", "ome-zarr", moments) == [], moments


DIES = """
import os, signal, sys
from pathlib import Path
import numpy as np
import torch
from napari_dkp.batch import Batch
from napari_dkp.config import Settings
from test_batch import COUNTING, PSF
from dataclasses import replace

torch.set_num_threads(1)
last = step = 0

def dying(call):
    def counted(*args, **kwargs):
        global step
        step += 1
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted

def in_child(out, lives):
    pid = os.fork()
    if pid == 0:
        global step
        step = 0 if lives else 10**6
        batch = Batch(["a.tif"], out, replace(COUNTING, diagnostics=True), kernel=PSF)
        for _ in batch:
            pass
        os._exit(batch.n_failed)
    return os.waitpid(pid, 0)[1]

os.fsync = lambda handle: None  # a killed process needs no more
for name in ("fsync", "replace", "rename", "unlink", "rmdir"):
    setattr(os, name, dying(getattr(os, name)))
while True:
    last += 1
    if in_child(f"out{last}", True) != signal.SIGKILL:
        break
    assert in_child(f"out{last}", False) == 0, last
print(last)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_may_die_at_every_step(tmp_path):
    """Before a file is known to be on the disk, and before a name changes or goes."""
    save(tmp_path / "a.tif", 2, 24, 20)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", DIES],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    last = int(done.stdout)
    assert last > 20
    wanted = contents(tmp_path / f"out{last}")
    assert "a_uncertainty.ome.tif" in wanted
    for number in range(1, last):
        assert contents(tmp_path / f"out{number}") == wanted, number


# --- accounts ------------------------------------------------------------------------------------


def test_the_account_is_there_after_every_file(tmp_path):
    paths = [save(tmp_path / f"{name}.tif", 2, 24, 20) for name in "abc"]
    (tmp_path / "b.tif").write_text("no image")
    out = tmp_path / "out"
    batch = counting(paths, out)
    seen = []
    for event in batch:
        if event.number == 3 and event.state is None and event.outcome is None:
            told = json.loads((out / "batch.json").read_text(encoding="utf-8"))
            seen = [each["status"] for each in told["files"]]
    assert seen == ["done", "failed", "waiting"]
    told = json.loads((out / "batch.json").read_text(encoding="utf-8"))
    assert told["totals"] | {"seconds": 0} == {
        "files": 3,
        "done": 2,
        "failed": 1,
        "planes": 4,
        "seconds": 0,
    }
    assert told["settings"]["method"] == "richardson-lucy"
    assert told["versions"]["torch"]
    first, second, _ = told["files"]
    assert first["outputs"] == ["a.ome.tif", "a_kernel.tif", "a_settings.json"]
    assert first["kernel_width"][0] > 1
    assert "2 of 2 planes" in first["summary"]
    assert "cannot be read" in second["sentence"]
    text = (out / "batch.md").read_text(encoding="utf-8")
    assert "3 files: 2 done, 1 failed." in text
    assert "b.tif' cannot be read as an image" in text


def test_events_tell_how_far_it_is(tmp_path):
    paths = [save(tmp_path / f"{name}.tif", 3, 24, 20) for name in "ab"]
    events = run(counting(paths, tmp_path / "out"))
    steps = [event for event in events if event.state is not None]
    assert {event.number for event in steps} == {1, 2}
    assert all(event.seconds_left >= 0 for event in steps)
    assert steps[-1].seconds_left == pytest.approx(0)
    said = where(replace(steps[0], seconds_left=200.0))
    state = steps[0].state
    assert said == (
        f"file 1 of 2, plane 1 of 3, step {state.step} of {state.n_steps}, about 3.3 min left"
    )


# --- command line --------------------------------------------------------------------------------

QUICK = ("--scale", "1", "--method", "richardson-lucy", "--iterations", "2", "--device", "cpu")


@pytest.fixture
def quick(tmp_path: Path) -> tuple[object, ...]:
    tifffile.imwrite(tmp_path / "psf.tif", PSF)
    return (*QUICK, "--kernel", tmp_path / "psf.tif")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_command_restores_reports_and_skips(tmp_path, quick):
    save(tmp_path / "in" / "a.tif", 2, 24, 20)
    save(tmp_path / "in" / "b.tif", 24, 20)
    out = tmp_path / "out"
    result = invoke("batch", tmp_path / "in", "--out", out, *quick)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["2 files: 2 done.", str(out / "batch.md")]
    assert f"file 1 of 2, {tmp_path / 'in' / 'a.tif'}: done in" in result.stderr
    result = invoke("batch", tmp_path / "in", tmp_path / "no.tif", "--out", out, *quick)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == "3 files: 2 skipped, 1 failed."
    assert "there is no file" in result.stderr


def test_options_are_those_of_restore(tmp_path, quick):
    path = save(tmp_path / "in" / "a.tif", 24, 20)
    options = ("--format", "ome-zarr", "--seed", "4", "--diagnostics")
    result = invoke("batch", path, "--out", tmp_path / "out", *quick, *options)
    assert result.exit_code == 0, result.output
    stored, _ = io.read_settings(tmp_path / "out" / "a_settings.json")
    assert (stored.seed, stored.diagnostics, stored.iterations) == (4, True, 2)
    assert (tmp_path / "out" / "a_residual.ome.zarr").is_dir()
    same = ("--settings", tmp_path / "out" / "a_settings.json")
    result = invoke("restore", path, tmp_path / "again.tif", *same)
    assert result.exit_code == 0, result.output
    again = io.read(tmp_path / "again.tif").image
    np.testing.assert_array_equal(again, io.read(tmp_path / "out" / "a.ome.zarr").image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "png"), "format: expected one of"),
        (("--scale", "9"), "scale: expected an integer"),
        (("--kernel", "missing.tif"), "there is no file"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, options, message):
    path = save(tmp_path / "a.tif", 24, 20)
    result = invoke("batch", path, "--out", tmp_path / "out", *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_kernel_that_is_given_is_not_replaced(tmp_path):
    path = save(tmp_path / "a.tif", 24, 20)
    (tmp_path / "out").mkdir()
    tifffile.imwrite(tmp_path / "out" / "a_kernel.tif", PSF)
    options = ("--kernel", tmp_path / "out" / "a_kernel.tif", "--overwrite")
    result = invoke("batch", path, "--out", tmp_path / "out", *QUICK, *options)
    assert result.exit_code == 1
    assert "is an input" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_batch_after_its_step(tmp_path, quick, monkeypatch, number):
    save(tmp_path / "in" / "a.tif", 3, 24, 20)
    save(tmp_path / "in" / "b.tif", 3, 24, 20)
    out = tmp_path / "out"
    real = running.Stream

    class Interrupted(real):
        def __iter__(self):
            for state in super().__iter__():
                if self.done == 2 and threading.current_thread() is threading.main_thread():
                    signal.raise_signal(number)
                yield state

    monkeypatch.setattr(running, "Stream", Interrupted)
    result = invoke("batch", tmp_path / "in", "--out", out, *quick)
    assert result.exit_code == 130, result.output
    assert "the same command goes on" in result.stderr
    told = json.loads((out / "batch.json").read_text(encoding="utf-8"))
    assert [each["status"] for each in told["files"]] == ["stopped", "waiting"]
    assert (told["files"][0]["planes"], told["files"][0]["n_planes"]) == (2, 3)
    assert listed(out) == [".a.ome.tif.partial", "batch.json", "batch.md"]
    monkeypatch.setattr(running, "Stream", real)
    result = invoke("batch", tmp_path / "in", "--out", out, *quick)
    assert result.exit_code == 0, result.output
    assert "2 of 3 planes were done before" in result.stderr


def test_optics_come_from_each_file(tmp_path):
    description = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Instrument ID="Instrument:0"><Objective ID="Objective:0" LensNA="1.4"/></Instrument>
<Image ID="Image:0"><ObjectiveSettings ID="Objective:0"/><Pixels ID="Pixels:0" Type="uint16"
DimensionOrder="XYZCT" SizeX="20" SizeY="24" SizeZ="1" SizeC="1" SizeT="1" PhysicalSizeX="0.065"
PhysicalSizeY="0.065"><Channel ID="Channel:0:0" EmissionWavelength="525"/><TiffData/></Pixels>
</Image></OME>"""
    save(tmp_path / "b.tif", 24, 20)
    tifffile.imwrite(tmp_path / "a.ome.tif", image(24, 20), description=description, metadata=None)
    options = ("--preset", "fast", "--iterations", "2", "--kernel-size", "5", "--device", "cpu")
    result = invoke("batch", tmp_path, "--out", tmp_path / "out", "--method", "dip", *options)
    assert result.exit_code == 0, result.output
    optics = [io.read_settings(tmp_path / "out" / f"{n}_settings.json")[0].optics for n in "ab"]
    assert optics[0].numerical_aperture == 1.4
    assert optics[1] is None
    assert "a.ome.tif: Optics as the file states them" in result.stderr


def test_help_of_both_commands_needs_no_torch():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from napari_dkp.cli import app\n"
        "for command in ('restore', 'batch'):\n"
        "    result = CliRunner().invoke(app, [command, '--help'])\n"
        "    assert result.exit_code == 0\n"
        "    assert '--kernel-family' in result.output\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_volumes_are_restored_together_and_files_without_depth_fail(tmp_path):
    folder = tmp_path / "in"
    save(folder / "deep.tif", 2, 6, 16, 18, axes="TZYX")
    save(folder / "flat.tif", 16, 18)
    psf = np.full((3, 3, 3), 1 / 27, np.float32)
    chosen = replace(COUNTING, volume=True)
    batch = Batch([folder], tmp_path / "out", chosen, kernel=psf)
    events = run(batch)
    assert statuses(batch) == ["done", "failed"]
    assert "expected Z among them with volume=True" in batch.outcomes[1].sentence
    data = io.read(folder / "deep.tif").image
    wanted = restore(data, kernel=psf, **vars(replace(chosen, axes="TZYX")))
    back = io.read(tmp_path / "out" / "deep.ome.tif").image
    np.testing.assert_array_equal(back, wanted.image)
    assert [event.planes for event in events if event.state and event.state.done] == [1, 2]
