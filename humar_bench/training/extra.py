"""What training and pictures need beside the core installation: the extra `train`. Nothing of it is imported here, nor torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from humar_bench.errors import not_installed

PACKAGES = {"accelerate": "accelerate", "faster_coco_eval": "faster-coco-eval", "PIL": "pillow", "safetensors": "safetensors"}


def check_extra(what: str = "training needs", modules: Iterable[str] = PACKAGES) -> None:
    """Raises UsageError, before anything starts, where one of the modules is missing; `what` begins its sentence."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise not_installed(what, PACKAGES[module], extra="train")
