"""What is searched: fields of ModelArgs and their values, a point of them as a design, a design as a line to type. No torch, no Optuna.

The width of the replacement is `hidden_dim` and, inside its MLPs, `hidden_dim` x `efficient_mlp_ratio`; `dim_feedforward`, `nheads` and
`enc_layers` are the original's and change nothing here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from humar_bench.args import EFFICIENT_PREFIX, ModelArgs, shown
from humar_bench.errors import UsageError
from humar_bench.options import parse_value
from humar_bench.studies.switches import DEFAULT, other_values

SHARED = ("hidden_dim", "dec_layers")  # fields that are not the replacement's alone and change it
VALUES: dict[str, tuple[int, ...]] = {  # of numbers; a field that is not here takes what it is asked and what an ablation turns it to
    "hidden_dim": (64, 128, 192, 256, 320), "dec_layers": (2, 3, 4, 5, 6),
    "efficient_nheads": (2, 4, 8), "efficient_enc_layers": (1, 2, 3, 4, 6), "efficient_mlp_ratio": (1, 2, 3, 4),
    "efficient_decoder_mlp_ratio": (0, 1, 3, 4), "efficient_rank": (0, 32, 64, 128),
    "efficient_encoder_sets": (1, 2, 3, 6), "efficient_decoder_sets": (1, 2, 3, 6),
    "efficient_encoder_stride": (1, 2, 4), "efficient_memory_stride": (1, 2, 4),
    "efficient_sample_heads": (0, 2, 4), "efficient_sample_points": (1, 2, 4), "efficient_instance_iterations": (0, 1, 2, 3),
}
# Searched only where they are named: no count speaks for what has no weight, and the sketch sees too little of the memory that windows
# (3 %) and the original's decoder (up to 40 %) take for a moment.
NAMED_ALONE = {"efficient_skeleton_hops", "efficient_window", "efficient_exit_below", "efficient_decoder"}
MOST_VALUES = 100  # of a field


@dataclass(frozen=True)
class Space:
    """`args` is the design as it is asked, `values` what each field that is searched may be."""

    args: ModelArgs
    values: Mapping[str, tuple[Any, ...]]

    def design(self, point: Mapping[str, Any]) -> ModelArgs | None:
        """The design of one value a field; None where these do not go together.

        What would be the same design twice is one: more weight sets than layers they serve, more iterations of the instance token alone
        than half of them, as many sample heads as `nheads` or MLPs of the decoder as wide as all (0 says that), some heads or points where
        there are no samples.
        """
        got = {**dataclasses.asdict(self.args), **{name: point[name] for name in self.values}}
        early = self._at_most(got, "efficient_instance_iterations", got["dec_layers"] // 2)
        self._at_most(got, "efficient_encoder_sets", got["efficient_enc_layers"])
        self._at_most(got, "efficient_decoder_sets", got["dec_layers"] - early)
        sampled = got["efficient_point_samples"] or got["efficient_encoder_samples"]
        if not sampled or got["efficient_sample_heads"] == got["nheads"]:
            got["efficient_sample_heads"] = 0
        if not sampled:
            got["efficient_sample_points"] = 1
        if got["efficient_decoder_mlp_ratio"] == got["efficient_mlp_ratio"]:
            got["efficient_decoder_mlp_ratio"] = 0
        try:
            return ModelArgs(**got)
        except UsageError:
            return None

    def _at_most(self, got: dict[str, Any], name: str, most: int) -> int:
        """What a number comes to; in `got` it is as asked where that comes to the same, so that the design asked has no changes."""
        comes_to = min(got[name], most)
        got[name] = getattr(self.args, name) if min(getattr(self.args, name), most) == comes_to else comes_to
        return comes_to

    @cached_property
    def start(self) -> dict[str, Any] | None:
        """The point that the asked design is, where it is one."""
        point = {name: getattr(self.args, name) for name in self.values}
        return point if all(value in self.values[name] for name, value in point.items()) else None

    def changes(self, design: ModelArgs) -> dict[str, Any]:
        """What a design sets otherwise than asked."""
        return {each.name: getattr(design, each.name) for each in dataclasses.fields(ModelArgs)
                if getattr(design, each.name) != getattr(self.args, each.name)}

    def plain(self) -> dict[str, Any]:
        """For the storage that several processes share: two spaces are one where these are equal."""
        return json.loads(json.dumps({"args": dataclasses.asdict(self.args), "values": self.values}))


def space_of(args: ModelArgs, over: Iterable[str] = (), fixed: Iterable[str] = ()) -> Space:
    """Every `efficient_` field, the width and the iterations; where `over` names FIELD=VALUE,VALUE,... these fields alone. `fixed` ones are
    as asked, and so are those of `NAMED_ALONE` that `over` does not name. Raises UsageError."""
    options = {each.name: each for each in dataclasses.fields(ModelArgs) if each.name in SHARED or each.name.startswith(EFFICIENT_PREFIX)}
    values: dict[str, tuple[Any, ...]] = {}
    for text in over:
        name, equals, listed = (part.strip() for part in text.partition("="))
        if not equals or name not in options or name in values:
            raise UsageError(
                f"--over is {shown(text)}; write FIELD=VALUE,VALUE,... once a field, of {', '.join(SHARED)} and the {EFFICIENT_PREFIX} "
                "fields."
            )
        values[name] = _parsed(args, options[name], listed)
    if not values:
        values = {name: _usual(args, option) for name, option in options.items() if name not in NAMED_ALONE.union(fixed)}
    values = {name: own for name, own in values.items() if len(own) > 1}
    if not values:
        raise UsageError("nothing is left to search: every field has one value; name more with --over.")
    return Space(args, values)


def _usual(args: ModelArgs, option: dataclasses.Field) -> tuple[Any, ...]:
    found = VALUES.get(option.name) or (getattr(args, option.name), *other_values(option, args))
    return tuple(value for value in found if _alone(args, option.name, value))


def _alone(args: ModelArgs, name: str, value: Any) -> bool:
    return Space(args, {name: ()}).design({name: value}) is not None


def _parsed(args: ModelArgs, option: dataclasses.Field, listed: str) -> tuple[Any, ...]:
    found = tuple(dict.fromkeys(parse_value(option.name, each.strip(), type(option.default)) for each in listed.split(",")))
    if len(found) > MOST_VALUES:
        raise UsageError(f"--over {option.name} names {len(found)} values; at most {MOST_VALUES} work.")
    for value in found:
        if not _alone(args, option.name, value):
            dataclasses.replace(args, **{option.name: value})  # its own sentence
            raise UsageError(f"--over {option.name}={value} does not go with the design asked; leave it out.")
    return found


def name_of(changes: Mapping[str, Any]) -> str:
    """How a design is called: the same one always alike."""
    if not changes:
        return DEFAULT
    return hashlib.sha256(json.dumps(dict(changes), sort_keys=True).encode()).hexdigest()[:6]


def typed(changes: Mapping[str, Any]) -> str:
    """A design as options: '--set hidden_dim=128 --set efficient_graph_bias=false'."""
    return " ".join(f"--set {name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in changes.items())
