"""Files of weights: what is read, what is refused, and that nothing in them is run."""

import argparse
import hashlib
import os
import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_dkp.diffusion import checkpoint
from napari_dkp.diffusion.checkpoint import read_weights, verify

WEIGHTS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.tensor([1.5, -2], dtype=torch.float16),
    "a.steps": torch.tensor(7),
}


def same(found: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(WEIGHTS) and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in WEIGHTS.items()
    )


@pytest.mark.parametrize("ending", ["pt", "pth", "ckpt", "bin"])
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])
def test_checkpoints_of_torch_are_read(tmp_path, ending, archive):
    file = tmp_path / f"net.{ending}"
    torch.save(WEIGHTS, file, _use_new_zipfile_serialization=archive)
    assert same(read_weights(file))


@pytest.mark.parametrize("name", ["net.safetensors", "NET.SAFETENSORS"])
def test_safetensors_are_read(tmp_path, name):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(WEIGHTS, tmp_path / name)
    found = read_weights(tmp_path / name)
    assert same({key: found[key] for key in WEIGHTS})


@pytest.mark.parametrize("key", ["state_dict", "model", "ema", "params"])
def test_weights_are_found_under_the_usual_names(tmp_path, key):
    held = {"epoch": 3, "optimizer": {"lr": 0.1}, key: WEIGHTS, "history": [1.0, 2.0]}
    torch.save(held, tmp_path / "net.pt")
    assert same(read_weights(tmp_path / "net.pt"))


def test_a_module_that_is_named_model_is_no_entry(tmp_path):
    torch.save({"model": torch.ones(2), "ema": torch.zeros(2)}, tmp_path / "net.pt")
    assert list(read_weights(tmp_path / "net.pt")) == ["model", "ema"]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"model": WEIGHTS, "ema": WEIGHTS}, "one set of weights.*several, 'model', 'ema'"),
        ({}, "holds none"),
        ({"state_dict": {}}, "holds none"),
        ([torch.ones(2)], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        ({"a": torch.ones(2), "epoch": 3}, "holds a int under 'epoch'"),
        ({"a": {"b": torch.ones(2)}}, "holds a dict under 'a'"),
        ({0: torch.ones(2)}, "holds a Tensor under 0"),
    ],
)
def test_what_is_no_set_of_weights_is_refused(tmp_path, held, message):
    torch.save(held, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=f"^model: expected .*{message}"):
        read_weights(tmp_path / "net.pt")


def test_a_missing_file_is_named(tmp_path):
    for ask in (read_weights, verify):
        with pytest.raises(FileNotFoundError, match=r"^model: there is no file .*256x256"):
            ask(tmp_path / "256x256_diffusion_uncond.pt")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^model: .*is a folder"):
        read_weights(tmp_path)


def damaged(content: bytes) -> dict[str, bytes]:
    return {
        "half": content[: len(content) // 2],
        "all but the end": content[:-30],
        "the end": content[100:],
    }


def saved(**options: object) -> bytes:
    stream = BytesIO()
    torch.save({"a": torch.zeros(5000)}, stream, **options)
    return stream.getvalue()


OTHERS = {
    "text": b"a checkpoint\nof nothing\n.",
    "noise": np.random.default_rng(0).bytes(5000),
    "zeros": bytes(5000),
    "html": b"<!DOCTYPE html><html>Sign in to download</html>",
    **{f"archive, {name}": content for name, content in damaged(saved()).items()},
    **{
        f"stream, {name}": content
        for name, content in damaged(saved(_use_new_zipfile_serialization=False)).items()
    },
}


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_other_files_are_refused(tmp_path, content, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    file = tmp_path / f"net.{ending}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^model: .*'net\.{ending}' is damaged, .* of file$"):
        read_weights(file)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools reading noise
def test_noise_never_makes_it_fail_otherwise(tmp_path):
    random = np.random.default_rng(1)
    file = tmp_path / "net.pt"
    for start in (b"", b"\x80\x02", b"\x80\x04\x95", b"(", b"PK\x03\x04"):
        for length in random.integers(1, 400, 30):
            file.write_bytes(start + random.bytes(length))
            with pytest.raises(ValueError, match=r"^model: "):
                read_weights(file)


def test_an_empty_file_is_refused(tmp_path):
    for name in ("net.pt", "net.safetensors"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"^model: .*'{name}' is empty"):
            read_weights(tmp_path / name)


def test_another_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match=r"^model: .*another kind of file"):
        read_weights(tmp_path / "net.pt")


class Malicious:
    """Makes a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, protocol, nested):
    made, file = tmp_path / "made", tmp_path / "net.pt"
    held = {"a": [1, "posix"], "state_dict": Malicious(made)} if nested else Malicious(made)
    file.write_bytes(pickle.dumps(held, protocol))
    with pytest.raises(ValueError, match=r"^model: .*would run code .*mkdir.*Nothing was run"):
        read_weights(file)
    assert not made.exists()
    pickle.loads(file.read_bytes())
    assert made.exists()  # so it would have


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])
def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path, archive):
    made, file = tmp_path / "made", tmp_path / "net.pt"
    held = {**WEIGHTS, "more": Malicious(made)}
    torch.save(held, file, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"would run code from the file \(\w+\.mkdir\)"):
        read_weights(file)
    assert not made.exists()


def test_code_of_torch_itself_is_code(tmp_path):
    torch.save(torch.nn.SiLU(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"would run code .*torch.nn.modules.activation.SiLU"):
        read_weights(tmp_path / "net.pt")


def test_few_of_many_names_are_told(tmp_path):
    layers = (torch.nn.Linear(2, 2), torch.nn.SiLU(), torch.nn.ReLU(), torch.nn.Tanh())
    torch.save(torch.nn.Sequential(*layers), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"\([\w.]+, [\w.]+, [\w.]+ and \d more\)"):
        read_weights(tmp_path / "net.pt")


def test_settings_beside_the_weights_are_code_too(tmp_path):
    held = {"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1)}
    torch.save(held, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"\(argparse.Namespace\)"):
        read_weights(tmp_path / "net.pt")


def test_a_name_said_twice_is_still_known():
    content = pickle.dumps([Malicious(Path("a")), Malicious(Path("b"))], 4)
    assert set(checkpoint._globals_in(BytesIO(content))) == {f"{os.name}.mkdir"}


def test_memory_running_out_is_no_damage(tmp_path, monkeypatch):
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    torch.save(WEIGHTS, tmp_path / "net.pt")
    monkeypatch.setattr(torch, "load", exhausted)
    with pytest.raises(MemoryError):
        read_weights(tmp_path / "net.pt")


def test_sums_are_checked_where_they_are_known(tmp_path, monkeypatch):
    file = tmp_path / "net.pt"
    torch.save(WEIGHTS, file)
    assert not verify(file)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(checkpoint._SUMS, "net.pt", expected)
    assert verify(file)
    file.write_bytes(file.read_bytes() + b"x")
    got = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"^model: .*'net.pt' .*{expected}; got {got}"):
        verify(file)


def test_the_sums_are_sums():
    for value in checkpoint._SUMS.values():
        assert len(value) == 64
        assert int(value, 16)
