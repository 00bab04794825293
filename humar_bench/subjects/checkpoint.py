"""A published checkpoint -> the whole model's weights or its transformer's, with `strict=True`; nothing in the file is executed.

Torch is imported only inside functions. Only tensors, plain containers and `argparse.Namespace` (training scripts keep their arguments
beside the weights) are unpickled (`torch.load(weights_only=True)`), and only from a file that `pickles.py` has found harmless.
"""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humar_bench.errors import UsageError, one_line
from humar_bench.reading import NotRegular, open_regular
from humar_bench.subjects.pickles import AsksForCode, Refused, check_checkpoint
from humar_bench.table import joined

if TYPE_CHECKING:
    import torch

PREFIX = "transformer."
WRAPPERS = ("model", "state_dict", "model_state_dict")  # what training scripts put the weights under
PARALLEL = "module."  # what torch's DataParallel and DistributedDataParallel put before every name
# Beside the weights: what a FLOP counter left in the modules, and an index that older versions of transformers kept
NO_WEIGHTS = ("total_ops", "total_params", "embeddings.position_ids")
MOST_NAMED = 3
MOST_WRAPPED = 8  # wrappers around each other
MOST_BYTES = 64 * 2**30
# What is raised for bytes that are no checkpoint, by the walk over its pickles and by torch
_NOT_A_CHECKPOINT = (
    OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, ArithmeticError,
    NotImplementedError, zipfile.BadZipFile, pickle.UnpicklingError, struct.error,
)


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
    refuse_odd(chosen, f"the checkpoint {path}")
    return chosen


def checkpoint_arguments(path: str | os.PathLike) -> argparse.Namespace | None:
    """What the training script kept of its own arguments beside the weights, under `args`; None where it kept none. Raises UsageError."""
    loaded = _read(Path(path))
    found = loaded.get("args") if isinstance(loaded, Mapping) else None
    return found if isinstance(found, argparse.Namespace) else None


def refuse_odd(entries: Mapping[str, torch.Tensor], said: str) -> None:
    """Raises UsageError for an entry that is no plain tensor with numbers and memory of its own."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for name, tensor in entries.items():
        if kind := _odd(tensor):
            raise UsageError(f"{said} holds {kind} for {name[:80]}; save plain tensors, such as tensor.clone().")
        if tensor.numel() and tensor.is_contiguous():
            start = tensor.storage_offset() * tensor.element_size()
            spans.setdefault(tensor.untyped_storage().data_ptr(), []).append((start, start + tensor.nbytes, name))
    for own in spans.values():
        own.sort()
        for (start, end, name), (next_start, next_end, other) in zip(own, own[1:], strict=False):
            if next_start < end and (start, end) != (next_start, next_end):  # the same memory twice is one weight by two names
                raise UsageError(f"{said} holds {name[:80]} and {other[:80]} in memory that overlaps; save plain tensors.")


def _odd(tensor: torch.Tensor) -> str:
    """What makes a tensor none that could be a weight, as a noun; empty for one that could."""
    import torch

    if tensor.is_nested or tensor.layout is not torch.strided:
        return f"a tensor of the layout {tensor.layout}"
    if tensor.is_meta:
        return "a tensor without numbers (on the device meta)"
    if tensor.is_quantized:
        return f"a quantised tensor ({tensor.dtype})"
    needed = 1  # every stride has to step over all that the smaller ones reach
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and tensor.numel():
            if stride < needed:
                return "a tensor whose elements share memory"
            needed = stride * (size - 1) + needed
    return ""


def load_into(model: torch.nn.Module, path: str | os.PathLike, prefix: str = PREFIX) -> torch.nn.Module:
    """Load a checkpoint's `prefix` entries into `model`, which must have exactly these names and shapes. Returns the model.

    Raises UsageError that names the first missing, unexpected and mis-shaped entries; the model is then as it was.
    """
    entries, own = load_checkpoint(path, prefix), model.state_dict()
    refuse_unfit(model, own)
    missing = [name for name in own if name not in entries]
    unexpected = [name for name in entries if name not in own]
    shapes = [
        f"{name} {list(entries[name].shape)} instead of {list(own[name].shape)}"
        for name in own if name in entries and entries[name].shape != own[name].shape
    ]
    types = other_types(entries, own)
    faults = [
        f"{word} {joined(names, MOST_NAMED)}"
        for word, names in (("lacks", missing), ("has besides", unexpected), ("has", shapes), ("has", types)) if names
    ]
    if faults:
        raise UsageError(f"the checkpoint {path} does not fit the model: it {'; it '.join(faults)}; build the model with its arguments.")
    try:
        model.load_state_dict(entries, strict=True)
    except RuntimeError as error:
        raise UsageError(f"the checkpoint {path} cannot be loaded into the model ({one_line(error)}); build it anew.") from None
    return model


def refuse_unfit(model: torch.nn.Module, own: Mapping[str, Any]) -> None:
    """Raises UsageError for a model that nothing can be loaded into: torch would leave it as it is, or fail halfway."""
    import torch

    for name, value in own.items():
        if not isinstance(value, torch.Tensor) or torch.nn.parameter.is_lazy(value) or value.is_quantized or value.is_meta:
            what = "on the device meta" if getattr(value, "is_meta", False) else "no plain tensor"
            raise UsageError(f"{name} of the {type(model).__name__} is {what}; load into a model with plain weights on a device.")


def other_types(entries: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    """Entries that torch would turn into other numbers without a word: complex ones, whole numbers for real ones and the reverse."""
    both = [(name, entries[name].dtype, own[name].dtype) for name in own if name in entries]
    return [
        f"{name} of {str(there).removeprefix('torch.')} instead of {str(here).removeprefix('torch.')}"
        for name, there, here in both if there != here and not (there.is_floating_point and here.is_floating_point)
    ]


def _read(path: Path) -> Any:
    import torch

    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise UsageError(f"the checkpoint {path} has {size:,} bytes; at most {MOST_BYTES:,} are read.")
            check_checkpoint(file)
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a pickle protocol other than torch.save's: it loads or is refused either way
                return torch.load(file, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError(f"the checkpoint {path} does not exist; name a file that torch.save wrote.") from None
    except NotRegular as error:
        raise UsageError(f"the checkpoint {path} is not a file: {error.strerror}; name a file that torch.save wrote.") from None
    except AsksForCode as error:
        raise UsageError(
            f"the checkpoint {path} asks for more than tensors and plain containers ({str(error)[:80]}) and was not loaded, "
            "because loading it could run code; save only its state dict."
        ) from None
    except Refused as error:
        raise UsageError(f"the checkpoint {path} was not loaded: {error}; save only its state dict.") from None
    except PermissionError as error:
        raise UsageError(f"the checkpoint {path} cannot be read: {error.strerror or error}; name a file that can.") from None
    except MemoryError:
        raise UsageError(f"the checkpoint {path} does not fit into memory; make room, or save only its state dict.") from None
    except _NOT_A_CHECKPOINT:
        raise UsageError(f"{path} is not a checkpoint that torch.save wrote, or is cut short; name one that is whole.") from None


def _tensors(loaded: Any, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Names to tensors, out of whatever a training script wrapped them in."""
    import torch

    for _ in range(MOST_WRAPPED):  # a dictionary may contain itself
        inner = next((word for word in WRAPPERS if isinstance(loaded, Mapping) and isinstance(loaded.get(word), Mapping)), None)
        if inner is None:
            break
        loaded = loaded[inner]
    if not isinstance(loaded, Mapping):
        raise UsageError(f"the checkpoint {path} holds a {type(loaded).__name__}; it must hold names and tensors, or 'model' with them.")
    entries = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    if not entries:
        raise UsageError(f"the checkpoint {path} holds no tensors by name; it must hold a state dict, or 'model' with one.")
    if all(name.startswith(PARALLEL) for name in entries):
        entries = {name.removeprefix(PARALLEL): tensor for name, tensor in entries.items()}
    return entries
