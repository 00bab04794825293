"""Closed forms: headline FLOPs of both architectures in plain integers, from the shapes alone. No torch here, nothing of the package.

Written from the descriptions, not from the counter. Letters: B batch, S memory tokens, C width, F feed-forward width, M heads, L levels,
P points, Q queries, K keypoints, N = K + 1 tokens of an instance, n = B * Q * N. `linear` and `attention` are FLOPs: 2 per multiply-add.
Bias, scaling, softmax and normalisation are not in here.
"""

from __future__ import annotations

import itertools
from typing import Any


def linear(rows: int, *widths: int) -> int:
    """A chain of linear layers: rows through widths[0] -> widths[1] -> ..."""
    return sum(2 * rows * a * b for a, b in zip(widths, widths[1:], strict=False))


def attention(sequences: int, queries: int, keys: int, width: int) -> int:
    """Scores and weighted sum of multi-head softmax attention; the number of heads cancels out."""
    return 2 * (2 * sequences * queries * keys * width)


def linear_attention(sequences: int, tokens: int, width: int, heads: int) -> int:
    """K^T V and Q (K^T V), V one column wider: the column sums up the denominator."""
    head = width // heads
    return 2 * (2 * sequences * heads * tokens * head * (head + 1))


def depthwise3x3(sites: int, width: int) -> int:
    return 2 * sites * width * 9


def original(args: dict[str, Any], batch: int, queries: int, sizes: list[tuple[int, int]], *, fused: bool = False) -> dict[str, int]:
    """FLOPs by component of the deformable pose transformer; fused: poses of the chosen tokens, positional queries of keypoints only."""
    B, Q, C, F, M, L = batch, queries, args["hidden_dim"], args["dim_feedforward"], args["nheads"], len(sizes)
    K, classes = args["num_body_points"], args["num_classes"]
    S, N = sum(height * width for height, width in sizes), K + 1
    n = B * Q * N

    def deformable(query_tokens: int, points: int) -> int:
        value = linear(B * S, C, C)
        offsets, weights = linear(query_tokens, C, M * L * points * 2), linear(query_tokens, C, M * L * points)
        return value + offsets + weights + linear(query_tokens, C, C)

    encoder = deformable(B * S, args["enc_n_points"]) + linear(B * S, C, F, C)
    across = linear(n, C, 3 * C) + attention(B * N, Q, Q, C) + linear(n, C, C)
    within = linear(n, C, 3 * C) + attention(B * Q, N, N, C) + linear(n, C, C)
    positional = linear(B * Q * K if fused else n, C, C, C)
    decoder = positional + across + deformable(n, args["dec_n_points"]) + linear(n, C, F, C) + within + linear(n, C, F, C)
    scores, poses = linear(B * S, C, classes), linear(B * (Q if fused else S), C, 2 * C, 2 * C, 2 * C, 2 * K)
    return {
        "encoder": args["enc_layers"] * encoder,
        "proposals": linear(B * S, C, C),
        "decoder": args["dec_layers"] * decoder,
        "heads": scores + poses + args["dec_layers"] * linear(B * Q * K, C, C, C, 2),
    }


def accurate(args: dict[str, Any], batch: int, queries: int, sizes: list[tuple[int, int]]) -> dict[str, int]:
    fixed = {
        "efficient_decoder": "original", "efficient_decoder_sets": 1, "efficient_decoder_mlp_ratio": 4, "efficient_encoder_sets": 1,
    }
    return efficient(args | fixed, batch, queries, sizes)


def original_fused(args: dict[str, Any], batch: int, queries: int, sizes: list[tuple[int, int]]) -> dict[str, int]:
    return original(args, batch, queries, sizes, fused=True)


def canvas(sizes: list[tuple[int, int]], stride: int) -> tuple[int, int]:
    """Cells (h, w) of a canvas that holds the levels on shelves as wide as the widest one, a free cell between neighbours."""
    cells = [((height + stride - 1) // stride, (width + stride - 1) // stride) for height, width in sizes]
    widest = max(width for _, width in cells)
    shelves: list[list[tuple[int, int]]] = [[]]
    for height, width in cells:
        taken = sum(w for _, w in shelves[-1]) + len(shelves[-1])  # a free cell after each
        if shelves[-1] and taken + width > widest:
            shelves.append([])
        shelves[-1].append((height, width))
    return sum(max(height for height, _ in shelf) for shelf in shelves) + len(shelves) - 1, widest


def efficient(args: dict[str, Any], batch: int, queries: int, sizes: list[tuple[int, int]]) -> dict[str, int]:
    """FLOPs by component of the convolution and linear attention replacement."""
    B, Q, C, L, K, classes = batch, queries, args["hidden_dim"], len(sizes), args["num_body_points"], args["num_classes"]
    M, wide = args["efficient_nheads"], args["efficient_mlp_ratio"] * C
    wide_after = (args["efficient_decoder_mlp_ratio"] or args["efficient_mlp_ratio"]) * C  # in the decoder
    S, N = sum(height * width for height, width in sizes), K + 1
    n, rank = B * Q * N, args["efficient_rank"]

    def projected(rows: int, *widths: int) -> int:
        """Linear layers one after the other, each of two factors where there is a rank."""
        return sum(linear(rows, one, rank, other) if rank else linear(rows, one, other) for one, other in itertools.pairwise(widths))

    stride = args["efficient_encoder_stride"]
    h, w = canvas(sizes, stride)
    sites, tokens = B * h * w * stride**2, h * w
    local = 2 * (depthwise3x3(sites, C) + linear(sites, C, C)) if args["efficient_local_conv"] else 0
    block = linear_attention(B, tokens, C, M)
    block += projected(B * tokens, C, 3 * C) + projected(B * tokens, C, C) + projected(B * tokens, C, wide, C)
    block += depthwise3x3(B * tokens, C) if args["efficient_value_conv"] else 0
    if window := args["efficient_window"]:
        windows = sum(-(-height // (stride * window)) * -(-width // (stride * window)) for height, width in sizes)
        block += attention(B * windows, window**2, window**2, C)
    smooth = depthwise3x3(sites, C) if stride > 1 else 0
    sample_heads, samples_a_head = args["efficient_sample_heads"] or args["nheads"], args["efficient_sample_points"]
    places = linear(1, C, 3 * L * samples_a_head * sample_heads)  # of one token
    narrow = C if C // 2 % sample_heads else C // 2
    around = sites * (places + linear(1, C, narrow, C)) if args["efficient_encoder_samples"] else 0

    seen_h, seen_w = canvas(sizes, args["efficient_memory_stride"])
    seen = seen_h * seen_w
    iterations = args["dec_layers"]
    early = min(args["efficient_instance_iterations"], iterations // 2)
    memory = projected(B * seen, C, 2 * C) if args["efficient_cross_tokens"] != "none" else 0
    memory += linear(B * S, C, C) if args["efficient_point_samples"] else 0

    def look(tokens: int) -> int:
        """Into the image for so many tokens of an instance, with their positional queries."""
        rows = B * Q * tokens
        by_all = args["efficient_across_tokens"] == "all"
        asking = tokens if by_all else 1
        mixed = attention(B * asking, Q, Q, C) if by_all else linear_attention(B, Q, C, M)
        across = projected(B * Q * asking, C, 3 * C) + mixed + projected(B * Q * asking, C, C)
        looking = {"none": 0, "instance": Q, "all": Q * tokens}[args["efficient_cross_tokens"]]
        cross = projected(B * looking, C, C) + attention(B, looking, seen, C) + projected(B * looking, C, C)
        samples = rows * places + linear(rows, C, C) if args["efficient_point_samples"] else 0
        mlp = projected(rows, C, wide_after, C) if args["efficient_look_mlp"] else 0
        return linear(rows, C, C, C) + across + cross + samples + mlp

    within = projected(n, C, 3 * C) + attention(B * Q, N, N, C) + projected(n, C, C) + projected(n, C, wide_after, C)
    sets = min(args["efficient_decoder_sets"], iterations - early)
    decoder = sets * memory + early * look(1) + (iterations - early) * (look(N) + within)
    hidden = args["efficient_decoder_mlp_ratio"] * C or args["dim_feedforward"]
    theirs = original_fused({**args, "dim_feedforward": hidden}, batch, queries, sizes)
    again = iterations - args["efficient_decoder_sets"]  # iterations that find the memory projected
    poses = linear(B * Q, C, 2 * C, 2 * C, 2 * C, 2 * K)  # of the chosen tokens
    return {
        "local convolution": local,
        "encoder": args["efficient_enc_layers"] * block + smooth + around,
        "proposals": linear(B * S, C, C),
        "decoder": decoder if args["efficient_decoder"] == "own" else theirs["decoder"] - again * linear(B * S, C, C),
        "heads": linear(B * S, C, classes) + poses + args["dec_layers"] * linear(B * Q * K, C, C, C, 2),
    }
