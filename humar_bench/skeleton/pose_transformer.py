"""The frame both architectures share: flatten the levels, encode, propose, query, decode with refinement, give back maps.

Source: UniPHD's pose-centric transformer, after GroupPose (Liu et al. 2023) and Deformable DETR (Zhu et al. 2021).
Changed on purpose: spatial shapes stay on the host; a 3-D `query_embed` is accepted; a wholly padded image gives finite outputs.

Shapes: B batch, L levels, (H_l, W_l) size of level l, S memory tokens, C width, Q queries, K keypoints,
N = K + 1 tokens of an instance (0 is the instance token).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from humar_bench.errors import UsageError
from humar_bench.skeleton.geometry import Shapes, level_sizes, split_levels, token_centres, valid_sizes
from humar_bench.skeleton.layers import MLP, SineEmbedding, inverse_sigmoid
from humar_bench.skeleton.two_stage import gather_tokens, place_keypoints, proposals, with_centre

COMPONENTS = (
    ("", "frame"),
    ("level_embed", "embeddings"),
    ("keypoint_embedding", "embeddings"),
    ("tgt_embed", "embeddings"),
    ("encoder", "encoder"),
    ("encoder.local", "local convolution"),
    ("decoder", "decoder"),
    ("decoder.pose_embed", "heads"),
    ("decoder.class_embed", "heads"),
    ("decoder.bbox_embed", "heads"),
    ("enc_output", "proposals"),
    ("enc_output_norm", "proposals"),
    ("enc_pose_embed", "heads"),
    ("enc_out_class_embed", "heads"),
)


class Memory(NamedTuple):
    """The image as the decoder sees it."""

    tokens: Tensor  # [B, S, C]
    padding: Tensor  # [B, S], True = padding
    shapes: Shapes
    valid_ratios: Tensor  # [B, L, 2], the unpadded fraction (w, h) of each level
    sizes: Tensor  # [L, 2], (W_l, H_l)


class PoseDecoder(nn.Module):
    """The refinement loop and its heads; an architecture says in `prepare` and `iterate` what one iteration does."""

    def __init__(self, *, channels: int, iterations: int, classes: int) -> None:
        super().__init__()
        self.channels, self.iterations = channels, iterations
        self.half_pose_ref_point_head = MLP(inputs=channels, hidden=channels, outputs=channels, layers=2)
        self.pose_embed = nn.ModuleList(point_head(channels, outputs=2) for _ in range(iterations))
        self.class_embed = nn.ModuleList(class_head(channels, classes) for _ in range(iterations))
        self.bbox_embed = nn.ModuleList(point_head(channels, outputs=4) for _ in range(iterations))

    def prepare(self, memory: Memory) -> Any:
        """What all iterations share of the memory, computed once."""
        return memory

    def logits(self, points: Tensor) -> Tensor:
        """Reference points as logits, the scale on which they are refined."""
        return inverse_sigmoid(points)

    def placed(self, i: int) -> slice:
        """Which of the N tokens iteration i wants a positional query of."""
        return slice(None)

    def has_settled(self, i: int, before: Tensor, after: Tensor) -> bool:
        """Whether no iteration after i is done: its keypoints before and after, [B, Q, K, 2]."""
        return False

    def iterate(self, i: int, x: Tensor, query_pos: Tensor, points: Tensor, context: Any) -> Tensor:
        """Iteration i: tokens x [B, Q, N, C], their positional queries and reference points [B, Q, N, 2] -> tokens."""
        raise NotImplementedError

    def forward(self, x: Tensor, points: Tensor, memory: Memory) -> tuple[list[Tensor], list[Tensor]]:
        """Queries [B, Q, N, C] at reference points [B, Q, N, 2] -> tokens and points after each iteration (points also before); those of
        iterations that are not done are the last ones again, the very same tensors."""
        context, embed = self.prepare(memory), SineEmbedding(self.channels, scale=memory.valid_ratios[:, 0])
        hs_pose, refpoint_pose = [], [points.flatten(-2)]
        for i in range(self.iterations):
            query_pos = self.half_pose_ref_point_head(embed(points[:, :, self.placed(i)]).to(x.dtype))
            x = self.iterate(i, x, query_pos, points, context)
            hs_pose.append(x)
            before = points[:, :, 1:]
            keypoints = (self.logits(before) + self.pose_embed[i](x[:, :, 1:].contiguous())).sigmoid()
            points = with_centre(keypoints)
            refpoint_pose.append(points.flatten(-2))
            points = points.detach()  # each iteration learns its own step (Deformable DETR, section 4.2)
            if self.has_settled(i, before, keypoints):
                break
        left = self.iterations - len(hs_pose)
        return hs_pose + hs_pose[-1:] * left, refpoint_pose + refpoint_pose[-1:] * left


class PoseTransformer(nn.Module):
    """From multi-scale maps and prompts to poses.

    The encoder is called as `encoder(srcs, pos_embeds, level_embed, padding, valid_ratios)`, with the maps as they came, level_embed
    [L, C] or None, padding [B, S] and valid_ratios [B, L, 2]; it gives the memory tokens [B, S, C].
    `components` names the part each parameter and operator belongs to; `built` says what the shared arguments became.
    """

    components: ClassVar = COMPONENTS

    def __init__(
        self,
        *,
        encoder: nn.Module,
        decoder: PoseDecoder,
        channels: int,
        levels: int,
        keypoints: int,
        classes: int,
        pose_after_selection: bool,
        query_buffer: int | None,
        built: dict[str, Any],
    ) -> None:
        super().__init__()
        self.channels, self.levels, self.pose_after_selection, self.built = channels, levels, pose_after_selection, built
        self.level_embed = nn.Parameter(torch.empty(levels, channels)) if levels > 1 else None
        self.encoder = encoder
        self.decoder = decoder
        self.keypoint_embedding = nn.Embedding(keypoints, channels)
        if query_buffer is not None:
            self.register_buffer("tgt_embed", torch.zeros(query_buffer, channels))
        self.enc_output = nn.Linear(channels, channels)
        self.enc_output_norm = nn.LayerNorm(channels)
        self.enc_pose_embed = MLP(inputs=channels, hidden=2 * channels, outputs=2 * keypoints, layers=4)
        self.enc_out_class_embed = class_head(channels, classes)

    def reset_parameters(self) -> None:
        """Xavier for matrices, normal for level_embed, torch's own for the heads, with their last layers zero and their class bias low."""
        heads = {id(p) for head in self._heads() for p in head.parameters()}
        for parameter in self.parameters():
            if parameter.dim() > 1 and id(parameter) not in heads:
                nn.init.xavier_uniform_(parameter)
        if self.level_embed is not None:
            nn.init.normal_(self.level_embed)
        for module in self.modules():  # layers with a rule of their own (deformable attention) come last
            if module is not self and hasattr(module, "reset_own_parameters"):
                module.reset_own_parameters()
        for head in (*self.decoder.pose_embed, *self.decoder.bbox_embed, self.enc_pose_embed):
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)

    def _heads(self) -> list[nn.Module]:
        decoder = self.decoder
        return [decoder.pose_embed, decoder.class_embed, decoder.bbox_embed, self.enc_pose_embed, self.enc_out_class_embed]

    def forward(
        self, srcs: list[Tensor], masks: list[Tensor], pos_embeds: list[Tensor], query_embed: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, list[Tensor]]:
        """One forward.

        srcs, pos_embeds: L of [B, C, H_l, W_l]; masks: L of [B, H_l, W_l], bool, True = padding; query_embed: [B, Q, 1, C] or [B, Q, C].
        Returns hs_pose (per iteration [B, Q, N, C]), refpoint_pose (one more, [B, Q, 2N], centre first), mix_refpoint [B, Q, 2K],
        mix_embedding [B, Q, C], memory_features (levels 0..L-2, [B, C, H_l, W_l]).
        Raises UsageError when the inputs do not fit each other or the model.
        """
        shapes = self._check(srcs, masks, pos_embeds, query_embed)
        queries = query_embed.shape[1]
        padding = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        exact = torch.promote_types(srcs[0].dtype, torch.float32)  # coordinates are never rounded to half precision
        valid = valid_sizes(padding, shapes, exact)
        centres = token_centres(shapes, like=valid)
        sizes = level_sizes(centres, shapes)
        valid_ratios = valid / sizes
        memory = self.encoder(srcs, pos_embeds, self.level_embed, padding, valid_ratios)

        logits, invalid = proposals(centres, valid, padding, shapes)
        o = self.enc_output_norm(self.enc_output(memory.masked_fill(invalid.unsqueeze(-1), 0)))
        chosen = self.enc_out_class_embed(o).amax(-1).topk(queries, dim=1).indices  # [B, Q]
        mix_embedding = gather_tokens(o, chosen)
        if self.pose_after_selection:
            mix_refpoint = place_keypoints(self.enc_pose_embed(mix_embedding), gather_tokens(logits, chosen))
        else:
            mix_refpoint = gather_tokens(place_keypoints(self.enc_pose_embed(o), logits), chosen)
        del o  # as large as the memory, and the decoder does not need it

        points = with_centre(mix_refpoint.detach().unflatten(-1, (-1, 2)))
        start = self.tgt_embed if hasattr(self, "tgt_embed") else mix_embedding.detach()
        keypoint_queries = self.keypoint_embedding.weight + start.unsqueeze(-2).expand(len(memory), -1, -1, -1)
        x = torch.cat((query_embed.reshape(len(memory), queries, 1, self.channels), keypoint_queries), dim=2)
        hs_pose, refpoint_pose = self.decoder(x, points, Memory(memory, padding, shapes, valid_ratios, sizes))

        maps = split_levels(memory, shapes)[:-1]
        return hs_pose, refpoint_pose, mix_refpoint, mix_embedding, [level.permute(0, 3, 1, 2) for level in maps]

    def _check(self, srcs: list[Tensor], masks: list[Tensor], pos_embeds: list[Tensor], query_embed: Tensor) -> Shapes:
        """Hold the inputs against the model and each other; the level sizes as host integers. Raises UsageError."""
        for name, levels in (("srcs", srcs), ("masks", masks), ("pos_embeds", pos_embeds)):
            if len(levels) != self.levels:
                raise UsageError(f"{name} has {len(levels)} levels, the model was built with num_feature_levels {self.levels}.")
        batch = srcs[0].shape[0]
        for level, (src, mask, pos) in enumerate(zip(srcs, masks, pos_embeds, strict=True)):
            if src.dim() != 4 or src.shape[1] != self.channels:
                raise UsageError(
                    f"srcs[{level}] has shape {tuple(src.shape)}; the model was built with hidden_dim {self.channels} and takes "
                    f"[batch, {self.channels}, height, width]."
                )
            if src.shape[0] != batch:
                raise UsageError(f"srcs[{level}] has batch {src.shape[0]}, srcs[0] has {batch}; they must be equal.")
            if mask.shape != (batch, *src.shape[2:]):
                raise UsageError(f"masks[{level}] has shape {tuple(mask.shape)}, srcs[{level}] needs {(batch, *src.shape[2:])}.")
            if mask.dtype != torch.bool:
                raise UsageError(f"masks[{level}] has dtype {mask.dtype}; it must be torch.bool, True where there is padding.")
            if pos.shape != src.shape:
                raise UsageError(f"pos_embeds[{level}] has shape {tuple(pos.shape)}, srcs[{level}] has {tuple(src.shape)}; match them.")
        shapes = [(int(src.shape[2]), int(src.shape[3])) for src in srcs]
        tokens = sum(height * width for height, width in shapes)
        fits = query_embed.dim() == 3 or (query_embed.dim() == 4 and query_embed.shape[2] == 1)
        if not fits or query_embed.shape[0] != batch or query_embed.shape[-1] != self.channels:
            raise UsageError(
                f"query_embed has shape {tuple(query_embed.shape)}; it must be [{batch}, queries, 1, {self.channels}] "
                f"or [{batch}, queries, {self.channels}]."
            )
        queries = query_embed.shape[1]
        if queries > tokens:
            raise UsageError(f"query_embed has {queries} queries, the maps have {tokens} memory tokens; ask for fewer or use larger maps.")
        if hasattr(self, "tgt_embed") and queries != len(self.tgt_embed):
            raise UsageError(f"query_embed has {queries} queries, the buffer of learnable_tgt_init has {len(self.tgt_embed)}.")
        return shapes


def point_head(channels: int, *, outputs: int) -> MLP:
    """A 3-layer head for points (2) or boxes (4)."""
    return MLP(inputs=channels, hidden=channels, outputs=outputs, layers=3)


def class_head(channels: int, classes: int) -> nn.Linear:
    """A class head that starts at 1 % (focal loss prior, Lin et al. 2017)."""
    head = nn.Linear(channels, classes)
    nn.init.constant_(head.bias, -math.log(99))
    return head
