"""A record's workload in words: what one forward was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from humar_bench.args import FREE, INPUTS
from humar_bench.records.record import TRAINING


def work_text(work: Mapping[str, Any]) -> str:
    """A record's workload in one sentence."""
    if work["name"] == TRAINING:
        return f"Workload {TRAINING}: {work['role']}, {work['data']}, seed {work['seed']}, {work['pictures']:,} pictures."
    padded = ", part of every image but the first is padding" if work["padded"] else ""
    if work.get("subject") == FREE:
        return _free_text(work, padded)
    maps = f"Workload {work['name']}: batch {work['batch']}, {work['num_queries']} queries, feature maps {sizes_text(work)}{padded}."
    return f"{maps} {_whole_text(work)}" if work.get("subject") == "uniphd" else maps


def _free_text(work: Mapping[str, Any], padded: str) -> str:
    """Whose inputs, and the sizes where any were asked for."""
    said = f"Workload {work['name']}: batch {work['batch']}, inputs of {work['inputs']}"
    if work["name"] != INPUTS:
        said += f", for whoever asks {work['num_queries']} queries, feature maps {sizes_text(work)}{padded}"
    parts = [f"{name} ({', '.join(prefixes)})" for name, prefixes in work["components"]]
    return f"{said}; components {', '.join(parts)}." if parts else f"{said}."


def _whole_text(work: Mapping[str, Any]) -> str:
    """What stands around the transformer."""
    height, width = work["image_size"]
    tokens = f" of {work['caption_tokens']} tokens" if work["prompt"] == "text" else ""
    return (
        f"The whole model: images {height}x{width}, backbone {work['backbone']}, text encoder {work['text_encoder']}, "
        f"prompt {work['prompt']}{tokens}, masks {work['masks']}{_weights_text(work)}."
    )


def _weights_text(work: Mapping[str, Any]) -> str:
    """Where weights come from, where they are not random."""
    if work.get("pretrained"):
        return ", published weights"
    named = {part: work.get(f"{name}_weights") for part, name in (("backbone", "backbone"), ("text encoder", "text"))}
    return "".join(f", weights of the {part} from {folder}" for part, folder in named.items() if folder)


def sizes_text(work: Mapping[str, Any]) -> str:
    """The feature maps of a record's workload."""
    return ", ".join(f"{height}x{width}" for height, width in work["feature_sizes"])
