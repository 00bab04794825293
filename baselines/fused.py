"""The original as fast as its outputs allow: same weights, same outputs (to rounding), other operators.

What is different, in inference: deformable attention without stored samples (one Triton kernel on CUDA, one weighted bag of rows
elsewhere), fused attention instead of `nn.MultiheadAttention`'s, the pose head after the selection instead of on every memory token, no
positional query for the instance token (the original adds zero to it), ReLU and sums in place. With gradients enabled deformable
attention is the original's own.

Sources: those of `baselines.transformer`; fused attention, FlashAttention (Dao et al. 2022).
Not done, though exact:
- one matrix product for sampling offsets and attention weights: their parameters have to stay two, and joining them on each forward costs
  what it saves (0.4 % of a CPU forward at most);
- sampling the memory before the value projection: 2 % of a CPU forward at 20 queries, nothing at 300; a kernel would read eight times as
  much, and what is counted would depend on the device.

Shapes: B batch, L levels, S memory tokens, T query tokens, C width, M heads, P points, Q queries, N tokens of an instance.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.deformable_attention import DeformableAttention
from baselines.deformable_op import deformable_attention_op
from baselines.transformer import Decoder, DecoderLayer, EncoderLayer, assemble
from baselines.weighted_rows import weighted_rows
from humar_bench.skeleton.geometry import Shapes
from humar_bench.skeleton.kernels import is_exporting, may_use_kernel
from humar_bench.skeleton.pose_transformer import Memory, PoseTransformer


class FusedDeformableAttention(DeformableAttention):
    """Deformable attention whose samples are never stored."""

    def forward(self, query: Tensor, points: Tensor, memory: Tensor, padding: Tensor, shapes: Shapes, sizes: Tensor) -> Tensor:
        """query [B, T, C] at points [B, T, L, 2], memory [B, S, C], padding [B, S], sizes [L, 2] as (W, H) -> [B, T, C]."""
        kernel = may_use_kernel(memory)
        if not kernel and (torch.is_grad_enabled() or is_exporting()):  # ONNX has bilinear samples; of weighted bags it makes a loop
            return super().forward(query, points, memory, padding, shapes, sizes)
        value = self.values(memory).unflatten(-1, (self.heads, -1))
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))
        logits = self.attention_weights(query).unflatten(-1, (self.heads, -1))
        if kernel:
            summed = deformable_attention_op(value, padding, offsets, logits, points, sizes, [side for shape in shapes for side in shape])
        else:
            value.masked_fill_(padding[:, :, None, None], 0)
            summed = weighted_rows(value, offsets, logits, points, sizes, shapes)
        return self.output_proj(summed.to(query.dtype))


class FusedAttention(nn.MultiheadAttention):
    """Self-attention through `scaled_dot_product_attention`, with the parameters of `nn.MultiheadAttention`."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [A, T, C]: A sequences of T tokens; bias [M, T, T], added to the logits of every sequence -> [A, T, C]."""
        heads = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # [A, M, T, D] each, views
        if bias is not None:  # torch's fused CPU kernel wants four dimensions and no gradient
            bias = (bias if torch.is_grad_enabled() else bias.detach()).unsqueeze(0)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0)
        return self.out_proj(attended.transpose(1, 2).flatten(-2))


def _added(x: Tensor, update: Tensor) -> Tensor:
    """x + update, in the memory of `update` where no gradient needs it."""
    return x + update if torch.is_grad_enabled() else update.add_(x)


class _FeedForward:
    """The two-layer networks of both kinds of layers, with the activation in place."""

    dropout: nn.Dropout

    def feed_forward(self, x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
        """x [..., C] -> [..., C], without the residual."""
        hidden = first(x)
        in_place = self.activation is F.relu and not torch.is_grad_enabled()
        hidden = hidden.relu_() if in_place else self.activation(hidden)
        return self.dropout(second(self.dropout(hidden)))


class FusedEncoderLayer(_FeedForward, EncoderLayer):
    """The original's encoder layer."""

    deformable: ClassVar = FusedDeformableAttention

    def forward(self, x: Tensor, pos: Tensor, points: Tensor, padding: Tensor, shapes: Shapes, sizes: Tensor) -> Tensor:
        """x, pos [B, S, C], points [B, S, L, 2] -> [B, S, C]."""
        x = self.norm1(_added(x, self.dropout(self.self_attn(x + pos, points, x, padding, shapes, sizes))))
        return self.norm2(_added(x, self.feed_forward(x, self.linear1, self.linear2)))


class FusedDecoderLayer(_FeedForward, DecoderLayer):
    """The original's decoder layer; the positional queries are those of the keypoints alone."""

    deformable: ClassVar = FusedDeformableAttention
    attention: ClassVar = FusedAttention

    def forward(self, x: Tensor, query_pos: Tensor, points: Tensor, memory: Memory) -> Tensor:
        """x [B, Q, N, C], query_pos [B, Q, N - 1, C], points [B, Q, N, 2] -> [B, Q, N, C]."""
        same = x.transpose(1, 2)  # queries of one image, one token type
        attended = self.across_attn(same.flatten(0, 1)).view(same.shape).transpose(1, 2)
        x = self.across_norm(_added(x, self.dropout(attended)))

        x[:, :, 1:] += query_pos  # stays in the residual stream, as upstream
        places = (points.unsqueeze(-2) * memory.valid_ratios[:, None, None]).flatten(1, 2)  # [B, Q*N, L, 2]
        attended = self.cross_attn(x.flatten(1, 2), places, memory.tokens, memory.padding, memory.shapes, memory.sizes)
        x = self.norm1(_added(x, self.dropout(attended).view_as(x)))
        x = self.norm2(_added(x, self.feed_forward(x, self.linear1, self.linear2)))

        x[:, :, 1:] += query_pos
        attended = self.within_attn(x.flatten(0, 1), self.adjacent_matrix).view_as(x)
        x = self.within_norm(_added(x, self.dropout(attended)))
        return self.norm2_(_added(x, self.feed_forward(x, self.linear1_, self.linear2_)))


class FusedDecoder(Decoder):
    """The original's refinement loop; no positional query is made for the instance token."""

    def placed(self, i: int) -> slice:
        return slice(1, None)  # the instance token has none


def build_fused_transformer(args: Any) -> PoseTransformer:
    """The original with fused operators, from the same arguments as `build_transformer`. Raises UsageError."""
    return assemble(args, FusedEncoderLayer, FusedDecoderLayer, FusedDecoder, pose_after_selection=True)
