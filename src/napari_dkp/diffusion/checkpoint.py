"""Files of network weights: read without running anything they carry, checked where a sum is known.

A file that torch pickled can carry code. Only tensors are taken from it; what would need more is
refused before it runs.
"""

import hashlib
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

# SHA-256 of published files, by their names.
_SUMS = {
    "256x256_diffusion_uncond.pt": (
        "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1"
    ),
    "512x512_diffusion_uncond_finetune_008100.pt": (
        "9c111ab89e214862b76e1fa6a1b3f1d329b1a88281885943d2cdbe357ad57648"
    ),
}

# Under these, training scripts keep the weights beside what else they save.
_USUAL_KEYS = (
    "state_dict",
    "model",
    "model_state_dict",
    "ema",
    "ema_state_dict",
    "params",
    "params_ema",
    "weights",
)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the weights of a network; nothing in the file is run.

    Parameters
    ----------
    file : ``.safetensors``, or a checkpoint of torch under any other name. Where it is a dict that
        holds the weights beside other things, they are found by the usual names of their entry.

    Returns
    -------
    Tensors on the CPU by name, in the file's order and precision. Where the format allows, they
    are mapped from the file and read when they are used.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no weights, more than one set of them, or what would run code.
    """
    if not file.exists():
        raise FileNotFoundError(f"model: there is no file '{file}'")
    if file.is_dir():
        raise ValueError(f"model: expected a file of weights; '{file}' is a folder")
    if not file.stat().st_size:
        raise ValueError(f"model: expected a file of weights; '{file.name}' is empty")
    safe = file.suffix.lower() == ".safetensors"
    try:
        held = _load_safetensors(file) if safe else _load_torch(file)
    except (MemoryError, PermissionError, ImportError):
        raise
    except Exception as error:  # damaged bytes make an unpickler raise anything
        names = [] if safe else _code_in(file)
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"model: '{file.name}' was refused: loading it would run code from the file "
                f"({', '.join(names[:3])}{more}). Nothing was run. Expected a file with tensors "
                "only; where you trust its origin, save its weights as .safetensors"
            ) from error
        # The reason is left out: torch gives the advice to load such files unsafely.
        raise ValueError(
            f"model: expected a file of weights; '{file.name}' is damaged, cut short or another "
            "kind of file"
        ) from error
    return _weights_in(held, file.name)


def verify(file: Path) -> bool:
    """Check a published file, known by its name, against its SHA-256.

    Returns
    -------
    True if the sum is known and the file has it, False if no sum is known under that name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has another sum.
    """
    expected = _SUMS.get(file.name)
    if expected is None:
        return False
    if not file.exists():
        raise FileNotFoundError(f"model: there is no file '{file}'")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"model: expected '{file.name}' to have the SHA-256 {expected}; got {found}. The file "
            "is damaged, cut short or another one under that name: download it again"
        )
    return True


def _load_safetensors(file: Path) -> object:
    from safetensors.torch import load_file

    return load_file(file)


def _load_torch(file: Path) -> object:
    # Only archives can be mapped; what torch saved before 1.6 is one stream.
    mapped = zipfile.is_zipfile(file)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)


def _weights_in(held: object, name: str) -> dict[str, Tensor]:
    if not isinstance(held, Mapping):
        raise ValueError(f"model: expected tensors by name; '{name}' holds a {type(held).__name__}")
    sets = [key for key in _USUAL_KEYS if isinstance(held.get(key), Mapping)]
    if len(sets) > 1:
        listed = ", ".join(repr(key) for key in sets)
        raise ValueError(
            f"model: expected one set of weights; '{name}' holds several, {listed}. Save the one "
            "you want in a file of its own"
        )
    weights = held[sets[0]] if sets else held
    if not weights:
        raise ValueError(f"model: expected tensors by name; '{name}' holds none")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"model: expected tensors by name; '{name}' holds a {type(value).__name__} "
                f"under {key!r}"
            )
    return dict(weights)


def _code_in(file: Path) -> list[str]:
    """Return the functions and classes that a pickle names and plain weights do not need."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                record = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                with archive.open(record) as stream:
                    named = set(_globals_in(stream))
        else:
            with file.open("rb") as stream:
                named = set(_globals_in(stream))
    except (OSError, EOFError, RuntimeError, StopIteration, zipfile.BadZipFile, zlib.error):
        return []
    return sorted(name for name in named if not _OF_WEIGHTS.fullmatch(name))


# What a pickled tensor names: how it is rebuilt, its storage and type, the dict it stands in.
_OF_WEIGHTS = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_\w+|torch\.storage\.\w+|torch\.\w*Storage"
    r"|torch\.(Size|device|bool|b?float\w+|u?int\w+|complex\w+|half|double|long)"
)


def _globals_in(stream: IO[bytes]) -> Iterator[str]:
    """Disassemble pickles one after the other, running nothing; yield the globals they name."""
    while True:
        named: list[str] = []
        words: list[str] = []  # pushed on the stack, of which STACK_GLOBAL takes the last two
        memo: dict[object, str] = {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                match opcode.name:
                    case "GLOBAL" | "INST":
                        named.append(str(argument).replace(" ", "."))
                    case "STACK_GLOBAL":
                        named.append(".".join(words[-2:]))
                    case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                        place = len(memo) if argument is None else argument
                        memo[place] = words[-1] if words else ""
                    case "GET" | "BINGET" | "LONG_BINGET":
                        words.append(memo.get(argument, ""))
                    case _ if isinstance(argument, str):
                        words.append(argument)
        except (ValueError, MemoryError):  # noise can ask for strings of any length
            return  # the end, the bytes of tensors, or no pickle at all
        yield from named
