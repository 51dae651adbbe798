"""Devices: which one to run on, how much memory it has left, which precision pays."""

from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

    from napari_dkp.config import Precision


def resolve_device(name: str) -> "torch.device":
    """Return the device of that name; "auto" prefers CUDA, then MPS, then the CPU.

    Raises
    ------
    ValueError
        If torch does not know the name or this machine does not have the device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available() and _mps_works():
            return torch.device("mps")
        return torch.device("cpu")
    known = ", ".join(repr(entry) for entry in ["auto", *available_devices()])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected one of {known}; got {name!r}") from None
    if device.type not in {entry.partition(":")[0] for entry in available_devices()}:
        raise ValueError(f"device: expected one of {known} on this machine; got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: expected one of {known} on this machine; got {name!r}")
    return device


def available_devices() -> list[str]:
    """Return the names of the devices that this machine has."""
    import torch

    names = []
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names += ["cuda"] if count == 1 else [f"cuda:{index}" for index in range(count)]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def describe_device(device: "torch.device | str") -> str:
    """Return a device's name as a person knows it, e.g. "NVIDIA H200" or "CPU, 8 threads"."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    return f"CPU, {torch.get_num_threads()} threads"


def free_memory(device: "torch.device | str") -> int:
    """Return the bytes that are free on a device now."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return int(psutil.virtual_memory().available)


def float64_device(device: "torch.device") -> "torch.device":
    """Return where float64 values of a device are kept: MPS has none, the CPU stands in."""
    import torch

    return torch.device("cpu") if device.type == "mps" else device


def resolve_precision(precision: "Precision", device: "torch.device") -> "torch.dtype":
    """Return the dtype of the image network; "auto" takes bfloat16 where hardware multiplies it."""
    import torch

    if precision == "float32":
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def _mps_works() -> bool:
    """Try the operators that a run needs and that MPS came to last."""
    import torch

    try:
        probe = torch.ones(4, 4, device="mps", requires_grad=True)
        blurred = torch.fft.irfftn(torch.fft.rfftn(probe), s=(4, 4), dim=(-2, -1))
        blurred.sum().backward()
    except RuntimeError:
        return False
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, of torch or of Python, says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")
