"""Devices: names, what "auto" takes, memory and precision."""

import pytest
import torch

from napari_dkp import device
from napari_dkp.device import (
    available_devices,
    describe_device,
    free_memory,
    resolve_device,
    resolve_precision,
)


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with so many CUDA devices, with or without MPS."""

    def pretend(cuda: int = 0, mps: bool = False, mps_works: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(device, "_mps_works", lambda: mps_works)

    return pretend


@pytest.mark.parametrize(
    ("has", "taken"),
    [
        ({}, "cpu"),
        ({"cuda": 1}, "cuda"),
        ({"cuda": 2, "mps": True}, "cuda"),
        ({"mps": True}, "mps"),
        ({"mps": True, "mps_works": False}, "cpu"),
    ],
)
def test_auto_takes_the_best_device_that_works(machine, has, taken):
    machine(**has)
    assert resolve_device("auto").type == taken


@pytest.mark.parametrize(
    ("has", "names"),
    [
        ({}, ["cpu"]),
        ({"cuda": 1}, ["cuda", "cpu"]),
        ({"cuda": 2}, ["cuda:0", "cuda:1", "cpu"]),
        ({"mps": True}, ["mps", "cpu"]),
    ],
)
def test_devices_are_listed_and_resolve(machine, has, names):
    machine(**has)
    assert available_devices() == names
    for name in names:
        assert str(resolve_device(name)) == name


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_every_name_of_a_cuda_device_is_understood(machine, name):
    machine(cuda=2)
    assert resolve_device(name).type == "cuda"


def test_the_only_cuda_device_may_be_called_by_its_number(machine):
    machine(cuda=1)
    assert resolve_device("cuda:0").type == "cuda"


@pytest.mark.parametrize(
    ("has", "name"),
    [
        ({}, "cuda"),
        ({}, "mps"),
        ({}, "cuda:0"),
        ({"cuda": 1}, "cuda:1"),
        ({"cuda": 2}, "cuda:2"),
        ({}, "gpu"),
        ({}, ""),
        ({}, "cpu:1:2"),
        ({}, "xpu"),
    ],
)
def test_absent_and_unknown_devices_are_named(machine, has, name):
    machine(**has)
    with pytest.raises(
        ValueError, match=f"device: expected one of 'auto', .*'cpu'.*; got '{name}'"
    ):
        resolve_device(name)


def test_the_cpu_is_described_and_has_memory():
    assert describe_device("cpu").startswith("CPU")
    assert describe_device(torch.device("cpu")) == describe_device("cpu")
    pages = free_memory("cpu")
    assert isinstance(pages, int)
    assert 1e6 < pages < 1e14


def test_a_precision_asked_for_is_the_one_used():
    cpu = torch.device("cpu")
    assert resolve_precision("float32", cpu) is torch.float32
    assert resolve_precision("bfloat16", cpu) is torch.bfloat16


@pytest.mark.parametrize(
    ("avx512", "amx", "dtype"),
    [
        (False, False, torch.float32),
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
    ],
)
def test_auto_takes_half_precision_where_hardware_multiplies_it(monkeypatch, avx512, amx, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", torch.device("cpu")) is dtype
    assert resolve_precision("auto", torch.device("mps")) is torch.float32
