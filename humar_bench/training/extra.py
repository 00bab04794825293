"""What training needs beside the core installation: the extra `train`. Nothing of it is imported here, nor torch."""

from __future__ import annotations

import importlib.util

from humar_bench.errors import not_installed

PACKAGES = ("accelerate", "faster_coco_eval", "safetensors")


def check_extra() -> None:
    """Raises UsageError, before anything starts, where a package is missing that every training run needs."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise not_installed("training needs", name.replace("_", "-"), extra="train")
