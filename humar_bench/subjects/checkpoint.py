"""A published checkpoint -> the whole model's weights or its transformer's, with `strict=True`; nothing in the file is executed.

Torch is imported only inside functions. Only tensors, plain containers and `argparse.Namespace` (training scripts keep their arguments
beside the weights) are unpickled (`torch.load(weights_only=True)`).
"""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humar_bench.errors import UsageError
from humar_bench.table import joined

if TYPE_CHECKING:
    import torch

PREFIX = "transformer."
WRAPPERS = ("model", "state_dict", "model_state_dict")  # what training scripts put the weights under
PARALLEL = "module."  # what torch's DataParallel and DistributedDataParallel put before every name
# Beside the weights: what a FLOP counter left in the modules, and an index that older versions of transformers kept
NO_WEIGHTS = ("total_ops", "total_params", "embeddings.position_ids")
MOST_NAMED = 3
_REFUSED = ("Unsupported global", "Unsupported class", "Trying to load unsupported", "was not an allowed global")  # in torch's messages
# What torch raises for bytes that are no checkpoint
_NOT_A_CHECKPOINT = (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, zipfile.BadZipFile)


def load_checkpoint(path: str | os.PathLike, prefix: str = PREFIX) -> dict[str, torch.Tensor]:
    """The entries of a checkpoint whose names begin with `prefix`, without it; every tensor on the CPU. `prefix` "" means all of them.

    Entries that are no weights, such as a counter's `total_ops`, are left out.
    Raises UsageError with one sentence when the file is missing, is no checkpoint, asks for code to be run, or holds no such entry.
    """
    entries = _tensors(_read(Path(path)), path)
    names = [name for name in entries if name.startswith(prefix) and not name.endswith(NO_WEIGHTS)]
    chosen = {name.removeprefix(prefix): entries[name] for name in names}
    if not chosen:
        tops = joined(list(dict.fromkeys(name.partition(".")[0] for name in entries)), MOST_NAMED)
        raise UsageError(f"the checkpoint {path} has no entry that begins with {prefix!r}; its entries begin with {tops}.")
    return chosen


def load_into(model: torch.nn.Module, path: str | os.PathLike, prefix: str = PREFIX) -> torch.nn.Module:
    """Load a checkpoint's `prefix` entries into `model`, which must have exactly these names and shapes. Returns the model.

    Raises UsageError that names the first missing, unexpected and mis-shaped entries; the model is then as it was.
    """
    entries, own = load_checkpoint(path, prefix), model.state_dict()
    missing = [name for name in own if name not in entries]
    unexpected = [name for name in entries if name not in own]
    shapes = [
        f"{name} {list(entries[name].shape)} instead of {list(own[name].shape)}"
        for name in own if name in entries and entries[name].shape != own[name].shape
    ]
    faults = [
        f"{word} {joined(names, MOST_NAMED)}" for word, names in (("lacks", missing), ("has besides", unexpected), ("has", shapes)) if names
    ]
    if faults:
        raise UsageError(f"the checkpoint {path} does not fit the model: it {'; it '.join(faults)}; build the model with its arguments.")
    model.load_state_dict(entries, strict=True)
    return model


def _read(path: Path) -> Any:
    import torch

    if not path.exists():
        raise UsageError(f"the checkpoint {path} does not exist; name a file that torch.save wrote.")
    if not path.is_file():
        raise UsageError(f"the checkpoint {path} is not a file; name a file that torch.save wrote.")
    try:
        open(path, "rb").close()
    except OSError as error:
        raise UsageError(f"the checkpoint {path} cannot be read: {error.strerror or error}; name a file that can.") from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol other than torch.save's: it loads or is refused either way
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _asks_for_code(error):
            raise UsageError(
                f"the checkpoint {path} asks for more than tensors and plain containers ({_wanted(error)}) and was not loaded, "
                "because loading it could run code; save only its state dict."
            ) from None
        raise UsageError(f"{path} is not a checkpoint that torch.save wrote; name one that is.") from None
    except _NOT_A_CHECKPOINT:
        raise UsageError(f"{path} is not a checkpoint that torch.save wrote, or is cut short; name one that is whole.") from None


def _asks_for_code(error: Exception) -> bool:
    """Whether the restricted unpickler refused a name, rather than stumbled over bytes that are no pickle."""
    said = str(error)
    return any(sign in said for sign in _REFUSED)


def _wanted(error: Exception) -> str:
    """'posix.system', from torch's message."""
    for word in str(error).replace("`", " ").split("GLOBAL", 1)[-1].split():
        if "." in word.strip(".,"):
            return word.strip(".,")
    return "a Python object"


def _tensors(loaded: Any, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Names to tensors, out of whatever a training script wrapped them in."""
    import torch

    while isinstance(loaded, Mapping) and (inner := next((word for word in WRAPPERS if isinstance(loaded.get(word), Mapping)), None)):
        loaded = loaded[inner]
    if not isinstance(loaded, Mapping):
        raise UsageError(f"the checkpoint {path} holds a {type(loaded).__name__}; it must hold names and tensors, or 'model' with them.")
    entries = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    if not entries:
        raise UsageError(f"the checkpoint {path} holds no tensors by name; it must hold a state dict, or 'model' with one.")
    if all(name.startswith(PARALLEL) for name in entries):
        entries = {name.removeprefix(PARALLEL): tensor for name, tensor in entries.items()}
    return entries
