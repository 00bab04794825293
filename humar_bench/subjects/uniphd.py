"""The whole model as a subject: a pose transformer inside UniPHD, called with images, padding, a prompt and sizes.

Shapes: B batch, (H, W) the padded image, T caption tokens, Q queries, K keypoints, C width, L levels, D decoder iterations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from humar_bench.args import ModelArgs, UniphdArgs, WholeWorkload
from humar_bench.errors import MeasurementError
from humar_bench.subjects.components import name_components
from humar_bench.subjects.making import made
from humar_bench.subjects.registry import Architecture, load_builder
from humar_bench.subjects.subject import NotFiniteOutputs, Subject
from humar_bench.uniphd import Captions, Points, Scribbles, UniPHD, UniphdOutput, build_uniphd, padded_batch
from humar_bench.uniphd.heads import LayerOutput
from humar_bench.uniphd.masks import MaskHead
from humar_bench.uniphd.text_encoders.tokens import benchmark_ids

SCRIBBLE_POINTS = 12  # as RefHuman's
TRANSFORMER = "transformer"
SHARED_HEADS = ("class_embed", "pose_embed", "bbox_embed")  # of the transformer's decoder and of the whole model: the same modules


class WholeInputs(NamedTuple):
    """What `model(*inputs)` is called with."""

    images: Tensor  # [B, 3, H, W]
    padding: Tensor  # [B, H, W], bool, True = padding
    prompt: Captions | Points | Scribbles
    sizes: Tensor  # [B, 2], (height, width) of each image without padding


class UniphdSubject(Subject):
    """The whole model around a pose transformer; what stands around it is the same for every architecture."""

    workload: WholeWorkload

    def of(self, architecture: Architecture) -> UniphdSubject:
        own = architecture.settings
        return UniphdSubject(self.args, self.workload.own(own, architecture.name)) if own else self

    def build(self, architecture: Architecture, *, device: str, dtype: torch.dtype, seed: int) -> UniPHD:
        """Under a fake tensor mode it is built on the meta device first: drawing truncated normals looks at values."""
        builder = load_builder(architecture)

        def make() -> UniPHD:
            return _weighted(whole_model(self.args, self.workload, builder), self.workload)

        with unset_fake_temporarily() as fake:
            if fake is None:
                return made(architecture.name, make, device=device, dtype=dtype, seed=seed)
            model = made(architecture.name, make, device="meta", dtype=dtype, seed=seed)
        return on_fake(model, device)

    def inputs(self, *, device: str, dtype: torch.dtype, seed: int) -> WholeInputs:
        return make_whole_inputs(self.workload, device=device, dtype=dtype, seed=seed)

    def check(self, outputs: Any, *, name: str) -> None:
        check_whole_outputs(outputs, self.args, self.workload, name=name)

    def parts(self, outputs: UniphdOutput) -> dict[str, Any]:
        """The chosen proposals, then every layer's outputs of them; masks are of all queries or of some."""
        chosen = outputs.interm_outputs
        layers = {"": outputs, **{f"aux_outputs[{index}].": each for index, each in enumerate(outputs.aux_outputs)}}
        later = {f"{prefix}{part}": getattr(each, part) for prefix, each in layers.items() for part in LayerOutput._fields}
        return {
            "points": chosen.pred_keypoints, "embedding": chosen.mix_embedding,
            "rows": {f"interm_outputs.{part}": each for part, each in chosen._asdict().items()},
            "later": {name: each for name, each in later.items() if isinstance(each, Tensor)},
            "some": {} if outputs.pred_masks is None else {"pred_masks": (outputs.pred_masks, outputs.mask_queries)},
        }

    def renewed(self, inputs: WholeInputs) -> list[tuple[Tensor, int]]:
        """Images along their rows, token ids along the caption, points by the order of the images."""
        return [(inputs.images, 2), (inputs.prompt[0], 1 if isinstance(inputs.prompt, Captions) else 0)]


def whole_model(args: ModelArgs, workload: WholeWorkload, transformer: Any, **parts: nn.Module) -> UniPHD:
    """The whole model that a workload names around a transformer (its builder, or the module); `parts` as in `build_uniphd`."""
    options = UniphdArgs(backbone=workload.backbone, text_encoder_type=workload.text_encoder, no_mask=workload.masks == "none")
    model = build_uniphd(args, transformer, options=options, image_size=workload.padded_size, **parts)
    if workload.masks == "looped":
        model.mask_refine = OnePassAQuery(model.mask_refine)
    model.shown = "all" if workload.masks == "looped" else workload.masks
    model.components = components_around(model.transformer)
    model.built = getattr(model.transformer, "built", None)
    return model


def _weighted(model: UniPHD, workload: WholeWorkload) -> UniPHD:
    """The model with the weights that its workload names; a model without numbers as it is."""
    named = workload.backbone_weights or workload.text_weights or workload.pretrained
    if named and not next(model.parameters()).is_meta:
        from humar_bench.subjects.weights import load_parts

        load_parts(model, workload)
    return model


class OnePassAQuery(nn.Module):
    """A mask head that makes one mask after the other, as the published code does, so that a comparison can be against it. The masks are
    the same; the sum of the memory's levels is made once, as there."""

    def __init__(self, head: MaskHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, memory: list[Tensor], fine: Tensor, coarse: Tensor, parameters: Tensor, centres: Tensor, sizes: Tensor
    ) -> Tensor:
        """As `MaskHead`."""
        image = [self.head.summed(memory)]
        each = (slice(query, query + 1) for query in range(parameters.shape[1]))
        return torch.cat([self.head(image, fine, coarse, parameters[:, one], centres[:, one], sizes) for one in each], dim=1)


def components_around(transformer: nn.Module) -> tuple[tuple[str, str], ...]:
    """The whole model's components, the transformer's own below it as 'transformer: encoder'; heads that both have are the whole's."""
    name_components(transformer)
    inside = [(prefix, f"{TRANSFORMER}: {name}") for prefix, name in getattr(transformer, "components", ()) if prefix]
    names = [(f"{TRANSFORMER}.{prefix}", name) for prefix, name in inside]
    heads = [(f"{TRANSFORMER}.decoder.{name}", "heads") for name in SHARED_HEADS]
    return (*UniPHD.components, *(each for each in names if each[0] not in dict(heads)), *heads)


def on_fake(model: nn.Module, device: str) -> nn.Module:
    """The model with a fake tensor in place of each of its tensors on meta, a shared one once; a fake tensor mode is active."""
    twins: dict[int, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, old in own.items():
                if old is not None and id(old) not in twins:
                    new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=device)
                    twins[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                own[name] = None if old is None else twins[id(old)]
    return model


def make_whole_inputs(
    workload: WholeWorkload, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> WholeInputs:
    """Standard normal images, random words or points; the same numbers on every device for one seed, drawn in float32 on the CPU.

    On the meta device, and under a fake tensor mode, nothing is allocated.
    """
    meta = torch.device(device).type == "meta"
    generator = None if meta else torch.Generator().manual_seed(seed)

    def drawn(draw: Any, *shape: int) -> Tensor:
        return torch.empty(shape, device=device) if meta else draw(shape, generator=generator)

    images, padding, sizes = padded_batch([drawn(torch.randn, 3, *size) for size in workload.image_sizes])
    prompt = _prompt(workload, sizes, lambda *shape: drawn(torch.rand, *shape), seed)
    return WholeInputs(
        images.to(device=device, dtype=dtype), padding.to(device), type(prompt)(*(each.to(device) for each in prompt)), sizes.to(device)
    )


def _prompt(workload: WholeWorkload, sizes: Tensor, uniform: Any, seed: int) -> Captions | Points | Scribbles:
    """Captions of random words, or points anywhere in the images, in pixels."""
    if workload.prompt == "text":
        return Captions(*benchmark_ids(workload.batch, workload.caption_tokens, seed=seed))
    scribbles = Scribbles(uniform(workload.batch, SCRIBBLE_POINTS, 2) * (sizes.flip(-1).unsqueeze(1) - 1))
    return scribbles if workload.prompt == "scribble" else scribbles.point()


def check_whole_outputs(outputs: Any, args: ModelArgs, workload: WholeWorkload, *, name: str = "the model") -> None:
    """Hold outputs against what the whole model gives: shapes, and every number finite.

    pred_logits [B, Q, classes], pred_boxes [B, Q, 4], pred_keypoints [B, Q, 3K], pred_keypoints_visi [B, Q, K], pred_masks [B, M, H, W]
    with M = Q for all masks, also looped, and 1 for the best, D - 1 layers in aux_outputs. On the meta device only shapes are checked.
    Raises MeasurementError, for NaN and infinity its subclass NotFiniteOutputs.
    """
    if not isinstance(outputs, UniphdOutput):
        raise MeasurementError(f"{name} returned a {type(outputs).__name__}; the whole model must return a UniphdOutput.")
    if len(outputs.aux_outputs) != args.dec_layers - 1:
        raise MeasurementError(f"{name} returned {len(outputs.aux_outputs)} layers in aux_outputs; it must be {args.dec_layers - 1}.")
    rows = (workload.batch, workload.num_queries)
    layer = {
        "pred_logits": (*rows, args.num_classes), "pred_boxes": (*rows, 4), "pred_keypoints": (*rows, 3 * args.num_body_points),
        "pred_keypoints_visi": (*rows, args.num_body_points),
    }
    expected = {part: (getattr(outputs, part), shape) for part, shape in layer.items()}
    for index, each in enumerate(outputs.aux_outputs):
        expected |= {f"aux_outputs[{index}].{part}": (getattr(each, part), shape) for part, shape in layer.items()}
    if (shown := _masks_shown(workload)) is not None:
        expected["pred_masks"] = (outputs.pred_masks, shown)
    for part, (tensor, shape) in expected.items():
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            got = f"of shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else f"as a {type(tensor).__name__}"
            raise MeasurementError(f"{name} returned {part} {got}; it must be a tensor of shape {list(shape)}.")
    for part, (tensor, _) in expected.items():
        if tensor.device.type != "meta" and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise NotFiniteOutputs(f"{name} returned {part} with {bad} of {tensor.numel()} numbers NaN or infinite.")


def _masks_shown(workload: WholeWorkload) -> tuple[int, ...] | None:
    shown = {"all": workload.num_queries, "looped": workload.num_queries, "best": 1}.get(workload.masks)
    return None if shown is None else (workload.batch, shown, *workload.padded_size)
