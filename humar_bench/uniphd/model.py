"""The whole model, assembled: images and a prompt in; class, box, keypoints, visibility and mask of every query out.

Source: UniPHD (Referring Human Pose and Mask Estimation in the Wild, 2024). Kept although odd, for published weights and numbers: the
third keypoint column, eight fusion heads, samples that align corners over padded sizes, the raw map under the first extra level, relative
coordinates in pixels, the mask's centre from one layer before the last. Dropped: prints, timers, matching and targets in the forward, one
mask pass a query, triggers compared as text. Padding: nothing that lies under it reaches a query once the levels are fused; before that,
group normalisation, 3x3 convolutions and the backbone's windows let it in, as upstream, and after it a mask's own 3x3 and bicubic
neighbourhoods do, at the border of the image.

Shapes: B batch, L levels, C width, Q queries, K keypoints, T prompt tokens, (H, W) the padded image, multiples of 16.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from humar_bench.args import BUILT_IN, PROMPTS, ModelArgs, Size, UniphdArgs
from humar_bench.errors import UsageError
from humar_bench.skeleton.pose_transformer import class_head, point_head
from humar_bench.skeleton.two_stage import gather_tokens
from humar_bench.uniphd.fusion import GROUPS, PromptFusion, input_projections
from humar_bench.uniphd.heads import LayerOutput, ProposalOutput, boxes, copies, keypoints, with_third_column
from humar_bench.uniphd.masks import SHUFFLE, MaskHead, mask_controller
from humar_bench.uniphd.positions import map_positions, resized_padding
from humar_bench.uniphd.prompts import Captions, Points, Prompt, PromptTokens, Resizer, Scribbles, TextFeatures, point_tokens, text_tokens

BACKBONE_LEVELS = 3  # strides 8, 16, 32; the stride-4 map feeds the masks alone
PROMPT_LEVEL = 1  # points and scribbles are read off stride 16
MASKS = ("all", "best", "none", "later")
COMPONENTS = (
    ("", "frame"),
    ("backbone", "backbone"),
    ("text_encoder", "text encoder"),
    ("text_proj", "prompt"),
    ("sentence_proj", "prompt"),
    ("prompt_proj", "prompt"),
    ("glob_prompt_proj", "prompt"),
    ("input_proj", "projection"),
    ("fusion_module", "fusion"),
    ("class_embed", "heads"),
    ("bbox_embed", "heads"),
    ("pose_embed", "heads"),
    ("pose_visi_embed", "heads"),
    ("controller", "mask head"),
    ("mask_refine", "mask head"),
    ("transformer", "transformer"),
)


class MaskInputs(NamedTuple):
    """What masks are made of, for `UniPHD.masks_of`: a loss needs those of matched queries alone."""

    instance: Tensor  # [B, Q, C], the last layer's instance tokens
    centres: Tensor  # [B, Q, 2], before the last layer's step
    memory: list[Tensor]  # L - 1 of [B, C, h_l, w_l]
    fine: Tensor  # the backbone's map at stride 4
    coarse: Tensor  # at stride 8
    sizes: Tensor  # [B, 2]
    padded_hw: Size


class UniphdOutput(NamedTuple):
    """What the whole model gives: the last layer's outputs, as in `LayerOutput`, and beside them what training and masks need."""

    pred_logits: Tensor  # [B, Q, classes]
    pred_boxes: Tensor  # [B, Q, 4]
    pred_keypoints: Tensor  # [B, Q, 3K]
    pred_keypoints_visi: Tensor | int  # [B, Q, K], or 0
    pred_masks: Tensor | None  # [B, M, H, W] logits; M is Q for all, 1 for the best
    mask_queries: Tensor | None  # [B, M], which queries the masks are of
    mask_inputs: MaskInputs | None  # for masks later
    padded_hw: Size  # (H, W)
    aux_outputs: list[LayerOutput]  # of all layers but the last
    interm_outputs: ProposalOutput


class UniPHD(nn.Module):
    """Backbone, text encoder and everything around a pose transformer. `build_uniphd` makes one from arguments.

    `backbone(images)` gives four maps of `backbone.channels` at strides 4, 8, 16, 32; `text_encoder(ids, attention)` gives features,
    padding and sentence of `text_encoder.width`. The heads are assigned to the transformer too, as upstream.
    """

    components: ClassVar = COMPONENTS
    shown = "all"  # masks of a forward that does not say which

    def __init__(
        self,
        *,
        backbone: nn.Module,
        text_encoder: nn.Module | None,
        transformer: nn.Module,
        prompts: frozenset[str],
        width: int,
        levels: int,
        layers: int,
        queries: int,
        classes: int,
        temperatures: tuple[float, float],
        masks: bool,
        visibility: bool,
    ) -> None:
        super().__init__()
        self.prompts, self.width, self.levels, self.queries, self.temperatures = prompts, width, levels, queries, temperatures
        self.transformer = transformer
        self.backbone = nn.ModuleList([backbone])  # published names put it at `backbone.0`
        fine, *channels = backbone.channels
        drawn = bool(prompts - {"text"})
        if text_encoder is not None:
            self.text_encoder = text_encoder
            self.text_proj, self.sentence_proj = (Resizer(text_encoder.width, width) for _ in range(2))
        if drawn:
            self.prompt_proj = Resizer(channels[PROMPT_LEVEL], width)
            self.glob_prompt_proj = Resizer(width, width)
        self.fusion_module = PromptFusion(width, text="text" in prompts, drawn=drawn)
        self.input_proj = input_projections(channels, width, levels)

        self.mask_refine = MaskHead((fine, channels[0])) if masks else None
        self.controller = mask_controller(width) if masks else None
        self.class_embed = copies(class_head(width, classes), layers)
        self.pose_embed = copies(_zero_head(width, outputs=2), layers)
        self.bbox_embed = copies(_zero_head(width, outputs=4), layers)
        self.pose_visi_embed = copies(class_head(width, 1), layers) if visibility else None
        decoder = transformer.decoder
        decoder.class_embed, decoder.pose_embed, decoder.bbox_embed = self.class_embed, self.pose_embed, self.bbox_embed

    def forward(
        self, images: Tensor, padding: Tensor, prompt: Prompt, sizes: Tensor | Sequence[Size], masks: str | None = None
    ) -> UniphdOutput:
        """From a padded batch: images [B, 3, H, W]; the rest as in `from_maps`. Raises UsageError."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise UsageError(f"images has shape {tuple(images.shape)}; it must be [batch, 3, height, width].")
        return self.from_maps(self.backbone[0](images), padding, prompt, sizes, masks)

    def from_maps(
        self, maps: Sequence[Tensor], padding: Tensor, prompt: Prompt, sizes: Tensor | Sequence[Size], masks: str | None = None
    ) -> UniphdOutput:
        """From the backbone's maps on, without waiting for the device anywhere.

        maps: four of [B, C_i, h_i, w_i], strides 4, 8, 16, 32; padding: [B, H, W] of the images, bool, True = padding; prompt: one kind for
        the batch; sizes: (height, width) of each image without padding, [B, 2] or pairs; masks: of all queries, of the best-scored alone,
        none, or later, with `masks_of`; left out, as `shown` says. Raises UsageError when the inputs do not fit each other or the model.
        """
        masks = self.shown if masks is None else masks
        self._check(maps, padding, prompt, sizes, masks)
        tokens, srcs, paddings, positions = self.fused(maps, padding, prompt)
        query = tokens.sentence[:, None, None].expand(-1, self.queries, -1, -1)  # [B, Q, 1, C]
        hs_pose, refpoint_pose, mix_refpoint, mix_embedding, memory = self.transformer(srcs, paddings, positions, query)

        *aux, last = [self._heads(i, hs, *refpoint_pose[i : i + 2]) for i, hs in enumerate(hs_pose)]
        inputs = MaskInputs(
            hs_pose[-1][:, :, 0], refpoint_pose[-2][..., :2], memory, maps[0], maps[1], _on_device(sizes, like=mix_refpoint),
            (padding.shape[1], padding.shape[2]),
        )
        made = chosen = None
        if masks in ("all", "best"):
            chosen = self._queries_of(last.pred_logits, masks)
            made = self.masks_of(inputs, None if masks == "all" else chosen)
        proposals = ProposalOutput(self.transformer.enc_out_class_embed(mix_embedding), with_third_column(mix_refpoint), mix_embedding)
        return UniphdOutput(*last, made, chosen, inputs if masks == "later" else None, inputs.padded_hw, aux, proposals)

    def masks_of(self, inputs: MaskInputs, queries: Tensor | None = None) -> Tensor:
        """Mask logits of queries [B, M], all where they are left out -> [B, M, H, W]."""
        instance, centres = inputs.instance, inputs.centres
        if queries is not None:
            instance, centres = gather_tokens(instance, queries), gather_tokens(centres, queries)
        if self.mask_refine is None:
            return instance.new_ones(()).expand(*instance.shape[:2], *inputs.padded_hw)
        return self.mask_refine(inputs.memory, inputs.fine, inputs.coarse, self.controller(instance), centres, inputs.sizes)

    def fused(self, maps: Sequence[Tensor], padding: Tensor, prompt: Prompt) -> tuple[PromptTokens, list, list, list]:
        """The prompt's tokens, and what the transformer reads: each level's map, padding and position embedding."""
        paddings = [resized_padding(padding, each.shape[2:]) for each in maps[1:]]
        positions = [self._positions(each).to(maps[0].dtype) for each in paddings]
        tokens = self._tokens(prompt, maps[1 + PROMPT_LEVEL], positions[PROMPT_LEVEL], padding.shape[1:])
        drawn = isinstance(prompt, (Points, Scribbles))
        srcs: list[Tensor] = []
        for level, project in enumerate(self.input_proj):
            raw = maps[1 + min(level, BACKBONE_LEVELS - 1)] if level <= BACKBONE_LEVELS else srcs[-1]
            srcs.append(self.fusion_module(project(raw), tokens, drawn=drawn))
            if level >= BACKBONE_LEVELS:
                paddings.append(resized_padding(padding, srcs[-1].shape[2:]))
                positions.append(self._positions(paddings[-1]).to(maps[0].dtype))
        return tokens, srcs, paddings, positions

    def _positions(self, padding: Tensor) -> Tensor:
        return map_positions(padding, self.width, *self.temperatures)

    def _tokens(self, prompt: Prompt, features: Tensor, positions: Tensor, image_size: Size) -> PromptTokens:
        if isinstance(prompt, Captions):
            prompt = TextFeatures(*self.text_encoder(prompt.ids, prompt.attention))
        if isinstance(prompt, TextFeatures):
            return text_tokens(prompt, self.text_proj, self.sentence_proj)
        points = prompt.points.reshape(len(prompt.points), -1, 2)
        return point_tokens(points, image_size, features, positions, self.prompt_proj, self.glob_prompt_proj)

    def _heads(self, i: int, hs: Tensor, points: Tensor, refined: Tensor) -> LayerOutput:
        """Layer i: tokens [B, Q, N, C], reference points before and after its step [B, Q, 2N]."""
        instance, joints = hs[:, :, 0], hs[:, :, 1:]
        return LayerOutput(
            self.class_embed[i](instance),
            boxes(self.bbox_embed[i], instance, points[..., :2]),
            with_third_column(keypoints(self.pose_embed[i], joints, points[..., 2:], refined[..., 2:])),
            0 if self.pose_visi_embed is None else self.pose_visi_embed[i](joints).squeeze(-1),
        )

    @staticmethod
    def _queries_of(logits: Tensor, masks: str) -> Tensor:
        """All queries, or the one with the highest score over all classes: [B, M]."""
        if masks == "all":
            return torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
        return logits.amax(-1).argmax(-1, keepdim=True)

    def _check(self, maps: Sequence[Tensor], padding: Tensor, prompt: Prompt, sizes: Any, masks: str) -> None:
        """Hold the inputs against the model and each other, by their shapes alone. Raises UsageError."""
        if masks not in MASKS:
            raise UsageError(f"masks is {masks!r}; choose one of {', '.join(MASKS)}.")
        channels = self.backbone[0].channels
        if len(maps) != len(channels):
            raise UsageError(f"maps has {len(maps)} maps; the model takes {len(channels)}, at strides 4, 8, 16 and 32.")
        if padding.dim() != 3 or padding.dtype != torch.bool:
            raise UsageError(f"padding is {padding.dtype} of shape {tuple(padding.shape)}; it must be torch.bool, [batch, height, width].")
        batch, height, width = padding.shape
        for index, (each, wide) in enumerate(zip(maps, channels, strict=True)):
            if each.dim() != 4 or each.shape[:2] != (batch, wide):
                raise UsageError(f"maps[{index}] has shape {tuple(each.shape)}; it must be [{batch}, {wide}, height, width].")
        if (height, width) != tuple(SHUFFLE * side for side in maps[0].shape[2:]):
            raise UsageError(
                f"padding is {height}x{width} and maps[0] is {maps[0].shape[2]}x{maps[0].shape[3]}; it must be a quarter of it: "
                "pad images to multiples of 16."
            )
        if len(sizes) != batch:
            raise UsageError(f"sizes has {len(sizes)} rows for a batch of {batch}; give (height, width) of each image.")
        self._check_prompt(prompt, batch)

    def _check_prompt(self, prompt: Prompt, batch: int) -> None:
        kinds = {Captions: "text", TextFeatures: "text", Points: "point", Scribbles: "scribble"}
        kind = kinds.get(type(prompt))
        if kind is None:
            raise UsageError(f"prompt is a {type(prompt).__name__}; it must be one of {', '.join(each.__name__ for each in kinds)}.")
        if kind not in self.prompts:
            built = " ".join(word for word in PROMPTS if word in self.prompts)
            raise UsageError(f"the prompt is {kind}, the model was built for {built}; name {kind} in train_trigger when it is built.")
        wanted = {"text": "[batch, tokens, ...]", "point": "[batch, 2]", "scribble": "[batch, points, 2]"}[kind]
        first = prompt[0]
        ranks = {Captions: 2, TextFeatures: 3, Points: 2, Scribbles: 3}
        if first.dim() != ranks[type(prompt)] or len(first) != batch or not first.numel():
            raise UsageError(
                f"the {kind} prompt has shape {tuple(first.shape)} for a batch of {batch}; it must be {wanted}, with at least one of each."
            )


def _zero_head(width: int, *, outputs: int) -> nn.Module:
    """A head that starts by moving nothing."""
    head = point_head(width, outputs=outputs)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head


def _on_device(sizes: Tensor | Sequence[Size], like: Tensor) -> Tensor:
    """Sizes [B, 2] as numbers beside `like`. Pairs are filled in on the device: a copy from the host would have to wait for it."""
    if isinstance(sizes, Tensor):
        return sizes.to(like)
    return torch.stack([torch.stack([like.new_full((), side) for side in size]) for size in sizes])


def build_uniphd(
    args: Any,
    transformer: str | Callable[[ModelArgs], nn.Module] | nn.Module | None = None,
    *,
    options: UniphdArgs | None = None,
    backbone: nn.Module | None = None,
    text_encoder: nn.Module | None = None,
    image_size: Size = (480, 640),
) -> UniPHD:
    """The whole model around a transformer, random weights.

    `args` holds `ModelArgs` and `UniphdArgs` by upstream's names: either class, or an argparse namespace with all of them; `options` says
    the latter apart. `transformer` is a name of `BUILT_IN`, a builder, or the module; left out, `efficient_transformer` and
    `transformer_type` of `args` say which, else the original. `backbone` and `text_encoder` take the place of those the arguments name.
    `image_size` is (height, width) of the padded images, for backbones that are built for one. Raises UsageError.
    """
    shared, options = ModelArgs.of(args), UniphdArgs.of(args if options is None else options)
    if shared.num_feature_levels < BACKBONE_LEVELS:
        raise UsageError(f"num_feature_levels is {shared.num_feature_levels}; the whole model has at least {BACKBONE_LEVELS}.")
    if shared.hidden_dim % GROUPS:
        raise UsageError(f"hidden_dim is {shared.hidden_dim}; the whole model needs a multiple of {GROUPS}, for its group normalisation.")
    if backbone is None:
        from humar_bench.uniphd.backbones import build_backbone

        backbone = build_backbone(options.backbone, image_size=image_size)
    if text_encoder is None and "text" in options.train_trigger:
        from humar_bench.uniphd.text_encoders import build_text_encoder

        text_encoder = build_text_encoder(options.text_encoder_type)
    if text_encoder is not None and options.freeze_text_encoder:
        text_encoder.requires_grad_(False)
    return UniPHD(
        backbone=backbone,
        text_encoder=text_encoder if "text" in options.train_trigger else None,
        transformer=_transformer(_chosen(args) if transformer is None else transformer, shared),
        prompts=options.train_trigger,
        width=shared.hidden_dim,
        levels=shared.num_feature_levels,
        layers=shared.dec_layers,
        queries=shared.num_queries,
        classes=shared.num_classes,
        temperatures=(options.pe_temperatureH, options.pe_temperatureW),
        masks=not options.no_mask,
        visibility=options.kps_visi_trigger,
    )


def _chosen(args: Any) -> str:
    """The architecture that upstream's arguments name."""
    return "efficient" if getattr(args, "efficient_transformer", False) else getattr(args, "transformer_type", "original")


def _transformer(wanted: str | Callable[[ModelArgs], nn.Module] | nn.Module, args: ModelArgs) -> nn.Module:
    if isinstance(wanted, nn.Module):
        return wanted
    if isinstance(wanted, str):
        if wanted not in BUILT_IN:
            raise UsageError(f"the transformer {wanted!r} is unknown; choose one of {', '.join(BUILT_IN)}, or give a builder.")
        module, _, builder = BUILT_IN[wanted].partition(":")
        wanted = getattr(importlib.import_module(module), builder)
    return wanted(args)
