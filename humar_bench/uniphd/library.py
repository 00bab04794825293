"""The door to `transformers`: imported when a model of it is built, never before."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from humar_bench.errors import UsageError, install, not_installed


def from_transformers(*names: str) -> list[Any]:
    """The classes of `transformers` of these names. Raises UsageError where it is missing or cannot import them."""
    try:
        library = importlib.import_module("transformers")
        return [getattr(library, name) for name in names]
    except ModuleNotFoundError as error:
        if error.name == "transformers":
            raise not_installed(f"{names[-1]} comes from", "transformers", extra="model") from error
        raise _broken(names, error) from error
    except (ImportError, AttributeError) as error:
        raise _broken(names, error) from error


def _broken(names: tuple[str, ...], error: Exception) -> UsageError:
    """transformers looks for torchvision wherever it is installed, and stops at one that was built for another torch."""
    way_out = f"install the version this package was tested with: {install('model')}"
    if importlib.util.find_spec("torchvision") is not None:
        way_out = "the usual cause is an installed torchvision that was built for another torch: uninstall it"
    return UsageError(f"transformers cannot import {' and '.join(names)} ({str(error).strip().splitlines()[0]}); {way_out}.")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and warnings of transformers inside; our own sentences say what is wrong."""
    logging = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
