"""Published weights for backbones and text encoders, from a folder in the layout of the Hugging Face hub.

Weights are read as tensors only: safetensors, or a pytorch_model.bin with `weights_only`. What a checkpoint has beyond our model (a
classifier, a language head) is left; what our model has and the checkpoint lacks is an error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from humar_bench.args import WEIGHT_FILES, WholeWorkload
from humar_bench.errors import UsageError, not_installed
from humar_bench.subjects.checkpoint import load_checkpoint, other_types, refuse_odd
from humar_bench.uniphd import UniPHD
from humar_bench.uniphd.backbones import build_backbone
from humar_bench.uniphd.backbones.efficientformer import EfficientFormerV2
from humar_bench.uniphd.backbones.hugging_face import HuggingFaceBackbone
from humar_bench.uniphd.backbones.swin import SwinTransformer
from humar_bench.uniphd.library import quiet
from humar_bench.uniphd.text_encoders import build_text_encoder
from humar_bench.uniphd.text_encoders.hugging_face import HuggingFaceTextEncoder

# Repositories of the hub, by our names.
HUB = {
    "swin_T_224_1k": "microsoft/swin-tiny-patch4-window7-224",
    "segformer_mit_b0": "nvidia/mit-b0",
    "segformer_mit_b1": "nvidia/mit-b1",
    "mobilevit_xxs": "apple/mobilevit-xx-small",
    "mobilevit_xs": "apple/mobilevit-x-small",
    "mobilevit_s": "apple/mobilevit-small",
    "efficientformerv2_s0": "timm/efficientformerv2_s0.snap_dist_in1k",
    "efficientformerv2_s1": "timm/efficientformerv2_s1.snap_dist_in1k",
    "efficientformerv2_s2": "timm/efficientformerv2_s2.snap_dist_in1k",
    "poolformer_s12": "sail/poolformer_s12",
    "poolformer_s24": "sail/poolformer_s24",
    "poolformer_s36": "sail/poolformer_s36",
    "roberta": "FacebookAI/roberta-base",
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "distilbert": "distilbert/distilbert-base-uncased",
    "tinybert": "huawei-noah/TinyBERT_General_4L_312D",
    "albert": "albert/albert-base-v2",
    "mobilebert": "google/mobilebert-uncased",
    "tite": "webis/tite-2-late-msmarco",
}
FILES = WEIGHT_FILES
# Swin in the files of transformers -> in the published checkpoints and here; q, k and v are joined afterwards.
SWIN_NAMES = (
    (r"^swin\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norm{int(found[1]) - 1}."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.attention\.self\.", ".attn."),
)
# Names that a checkpoint may have and our modules not: heads, and indices that are computed.
SWIN_HEADS = r"(classifier|head|norm|layernorm|pooler)\.|.*\.attn_mask$"
TIMM_HEADS = r"(head|head_dist|norm)\."


def load_backbone_weights(module: nn.Module, folder: str | Path) -> None:
    """Fill a backbone of `build_backbone` from a folder. Raises UsageError where the weights are missing, broken or of another model.

    Swin: files of transformers and of the published code; classifier checkpoints have no norms of the maps, which stay as built.
    EfficientFormerV2: files of timm; attention bias tables of another image size are stretched.
    """
    if isinstance(module, HuggingFaceBackbone):
        options = {"expand_output": False} if module.first else {}
        _load_with_transformers(module.model, Path(folder), options)
    elif isinstance(module, SwinTransformer):
        _load(module, _swin_names(_read(Path(folder))), folder, left=SWIN_HEADS, optional=r"norm\d\.|.*\.relative_position_index$")
    elif isinstance(module, EfficientFormerV2):
        _load(module, _read(Path(folder)), folder, left=TIMM_HEADS)
    else:
        raise UsageError(f"{type(module).__name__} is no backbone of build_backbone; load its weights with load_state_dict.")


def load_text_weights(module: nn.Module, folder: str | Path) -> None:
    """Fill a text encoder of `build_text_encoder` from a folder. Raises UsageError where the weights are missing, broken or others."""
    if isinstance(module, HuggingFaceTextEncoder):
        _load_with_transformers(module.text_backbone, Path(folder), {})
    else:
        _load(module.text_backbone, _read(Path(folder)), folder, left=r"^$")


def load_parts(model: UniPHD, workload: WholeWorkload) -> None:
    """Fill the backbone and the text encoder of a whole model as its workload says; random weights stay where it says nothing.

    Raises UsageError.
    """
    backbone, text = workload.backbone_weights, workload.text_weights
    if workload.pretrained:
        backbone, text = (pretrained(name, ask=False) for name in (workload.backbone, workload.text_encoder))
    if backbone:
        load_backbone_weights(model.backbone[0], backbone)
    if text:
        load_text_weights(model.text_encoder, text)


def check_parts(workload: WholeWorkload) -> None:
    """Load what a workload names once and forget it, before anything is measured; what is asked of the hub comes into its cache.

    Raises UsageError.
    """
    if workload.pretrained:
        for name in (workload.backbone, workload.text_encoder):
            pretrained(name)
    if workload.backbone_weights:
        _file_of(Path(workload.backbone_weights))
        load_backbone_weights(build_backbone(workload.backbone, workload.padded_size), workload.backbone_weights)
    if workload.text_weights:
        _file_of(Path(workload.text_weights))
        load_text_weights(build_text_encoder(workload.text_encoder), workload.text_weights)


def pretrained(name: str, *, ask: bool = True) -> Path:
    """Ask the Hugging Face hub for the weights and tokenizer of one of our names: the folder they are in, kept in the hub's own cache.
    Without `ask`, only that cache.

    The only function here that uses the network. Raises UsageError when it cannot be had.
    """
    if name not in HUB:
        raise UsageError(f"no published weights are known for {name!r}; choose one of {', '.join(HUB)}.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise not_installed("published weights are fetched by", "huggingface_hub", extra="model") from error
    try:
        return Path(snapshot_download(HUB[name], allow_patterns=["*.json", "*.txt", "*.model", *FILES], local_files_only=not ask))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the weights of {name} cannot be had from the hub ({HUB[name]}): it does not answer or is switched off; download the folder "
            "elsewhere and give its path."
        ) from error


def _read(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's weights."""
    path = _file_of(folder)
    if path.suffix != ".safetensors":
        return load_checkpoint(path, prefix="")
    try:
        from safetensors.torch import load_file

        state = load_file(path)
        refuse_odd(state, str(path))
        return state
    except ImportError as error:
        raise not_installed(f"{path} is read with", "safetensors", extra="model") from error
    except UsageError:
        raise
    except Exception as error:  # the reader has its own errors for a file it cannot parse
        raise UsageError(f"{path} cannot be read as weights ({_first_line(error)}); download it again.") from error


def _file_of(folder: Path) -> Path:
    if not os.path.isdir(folder):
        raise UsageError(f"the weights folder {folder} does not exist; give a folder that holds {FILES[0]}.")
    for name in FILES:
        if os.path.isfile(folder / name):
            return folder / name
    raise UsageError(f"the folder {folder} holds no {' or '.join(FILES)}; give a folder as the Hugging Face hub lays it out.")


def _load(module: nn.Module, state: dict[str, Tensor], folder: str | Path, *, left: str, optional: str = r"^$") -> None:
    """Load a renamed state dict; checkpoint names that match `left` may be too many, ours that match `optional` may be missing."""
    names = set(module.state_dict())
    state = {name: value for name, value in state.items() if name in names or not re.match(left, name)}
    missing = sorted(name for name in names - set(state) if not re.match(optional, name))
    _refuse(folder, type(module).__name__, missing, sorted(set(state) - names))
    if wrong := other_types(state, module.state_dict()):
        raise UsageError(f"the weights in {folder} are of another model than {type(module).__name__}: {wrong[0]}.")
    try:
        module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UsageError(f"the weights in {folder} are of another model: {_sizes(error)}.") from error


def _load_with_transformers(model: Any, folder: Path, options: dict[str, Any]) -> None:
    """Through `from_pretrained`, which knows the old names of its models; into `model`, whose own configuration decides."""
    _refuse_kinds(_read(folder), model, folder)
    try:
        with quiet():
            loaded, report = type(model).from_pretrained(
                str(folder), config=model.config, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True,
                dtype=torch.float32, **options,
            )
    except Exception as error:  # it raises whatever its readers do
        raise UsageError(f"the weights in {folder} cannot be read ({_first_line(error)}); download them again.") from error
    prefix, parts = f"{model.base_model_prefix}.", {name for name, _ in model.named_children()}
    foreign = [name for name in report["unexpected_keys"] if name.removeprefix(prefix).split(".")[0] in parts]
    other_size = [entry[0] if isinstance(entry, tuple) else entry for entry in report["mismatched_keys"]]
    _refuse(folder, type(model).__name__, sorted({*report["missing_keys"], *other_size}), sorted(foreign))
    model.load_state_dict(loaded.state_dict())


def _refuse_kinds(state: dict[str, Tensor], model: nn.Module, folder: Path) -> None:
    """Raises UsageError for complex numbers, and for whole ones where the model has none: the library would cast them without a word."""
    whole = {name.rpartition(".")[2] for name, value in model.state_dict().items() if not value.is_floating_point()}
    whole |= {"position_ids", "token_type_ids", "num_batches_tracked"}  # indices and counts that older files keep
    for name, value in state.items():
        if value.is_complex() or not value.is_floating_point() and name.rpartition(".")[2] not in whole:
            kind = str(value.dtype).removeprefix("torch.")
            raise UsageError(f"the weights in {folder} hold {name} of {kind}, no weight of {type(model).__name__}; download them again.")


def _refuse(folder: str | Path, model: str, missing: list[str], foreign: list[str]) -> None:
    """Raises UsageError when anything of our model would stay as it was, or anything of theirs would be lost."""
    foreign = [name for name in foreign if not name.endswith("position_ids")]  # an index that older files keep
    if missing:
        raise UsageError(f"the weights in {folder} are of another model than {model}: {missing[0]} and {len(missing) - 1} more do not fit.")
    if foreign:
        raise UsageError(f"the weights in {folder} are of another model than {model}: it has no {foreign[0]}, nor {len(foreign) - 1} more.")


def _swin_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file of transformers under the published names; the published one stays."""
    if not any("layernorm_before" in name for name in state):
        return state
    renamed = {}
    for name, value in state.items():
        for pattern, ours in SWIN_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = value
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [renamed.pop(name.replace("query", part), None) for part in ("query", "key", "value")]
        if all(part is not None for part in parts):
            renamed[name.replace("query", "qkv")] = torch.cat(parts)
    return renamed


def _sizes(error: RuntimeError) -> str:
    """The first line about a tensor's size of what `load_state_dict` says."""
    lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    return lines[0].rstrip(".") if lines else _first_line(error)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
