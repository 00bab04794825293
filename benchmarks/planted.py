"""Architectures with a planted difference, to see the verdicts of `humar-bench fps` live:

    humar-bench fps --arch original --arch slower=benchmarks/planted.py:one_more_encoder_layer --workload tiny
    humar-bench fps --arch efficient --arch waits=benchmarks/planted.py:waits_every_tenth_call --workload tiny --budget 60

Both are slower than what they are built from. The second computes the same and waits, which a median does not see and CPU time cannot.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from baselines.transformer import build_transformer
from efficient.transformer import build_efficient_conv_attention_transformer
from humar_bench.args import ModelArgs

WAIT_S = 0.2


def one_more_encoder_layer(args: Any) -> Any:
    """The original with one encoder layer more than asked for."""
    args = ModelArgs.of(args)
    return build_transformer(dataclasses.replace(args, enc_layers=args.enc_layers + 1))


def waits_every_tenth_call(args: Any) -> Any:
    """The replacement, sleeping before every tenth forward."""
    model = build_efficient_conv_attention_transformer(args)
    calls = 0

    def wait(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % 10 == 0:
            time.sleep(WAIT_S)

    model.register_forward_pre_hook(wait)
    return model
