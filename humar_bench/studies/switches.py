"""The design switches of the replacement, as rows of a study and as architectures.

The switches are every `efficient_` field of ModelArgs, so a new one cannot be forgotten: a flag is turned over, a choice takes its other
values, a number those of `OTHER_VALUES`, or twice its value where none are named. `COMBINED` adds rows that turn several at once.

A row is an architecture of its own, the builder `humar_bench.studies.ablate:FIELD__VALUE` (joined by `__and__`), so that all rows are built
from the same arguments.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from humar_bench.args import EFFICIENT_PREFIX, ModelArgs
from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.running.plan import parse_settings
from humar_bench.subjects.registry import Architecture, load_builder

DEFAULT, DESIGN = "default", "efficient"
BUILDERS = "humar_bench.studies.ablate"  # the module whose names are builders; records name it
AND, IS, POINT = "__and__", "__", "p"  # a builder's name is an identifier: 0.01 is 0p01 there

# Numbers that a switch is set to; what equals the value asked is left out. A function where it depends on the other arguments.
OTHER_VALUES: dict[str, Callable[[ModelArgs], tuple[float, ...]]] = {
    "efficient_encoder_sets": lambda args: (args.efficient_enc_layers,),
    "efficient_decoder_sets": lambda args: (args.dec_layers,),
    "efficient_encoder_stride": lambda args: (1,),
    "efficient_memory_stride": lambda args: (1, 4),
    "efficient_nheads": lambda args: (8,),
    "efficient_sample_heads": lambda args: (1,),
    "efficient_sample_points": lambda args: (4,),
    "efficient_instance_iterations": lambda args: (0,),
    "efficient_enc_layers": lambda args: (6,),
    "efficient_mlp_ratio": lambda args: (4,),
    "efficient_decoder_mlp_ratio": lambda args: (4,),
    "efficient_rank": lambda args: (max(1, args.hidden_dim // 4),),
    "efficient_skeleton_hops": lambda args: (2,),
    "efficient_window": lambda args: (7,),  # Swin's
    "efficient_exit_below": lambda args: (0.01,),
}
COMBINED: dict[str, Callable[[ModelArgs], dict[str, Any]]] = {
    "untied": lambda args: {"efficient_encoder_sets": args.efficient_enc_layers, "efficient_decoder_sets": args.dec_layers},
    # The published description word for word: own weights in every block, every token at full resolution, every token attends.
    "literal description": lambda args: {
        **COMBINED["untied"](args), "efficient_encoder_stride": 1, "efficient_memory_stride": 1, "efficient_cross_tokens": "all",
        "efficient_encoder_samples": False, "efficient_point_samples": False, "efficient_look_mlp": False,
        "efficient_instance_iterations": 0,
    },
}


@dataclass(frozen=True)
class Switch:
    """One row: the fields it sets; none for the design as it is asked."""

    name: str
    changes: Mapping[str, Any]

    @property
    def architecture(self) -> Architecture:
        """The row as something to measure."""
        if not self.changes:
            return Architecture(self.name, DESIGN, foreign=False)
        return Architecture(self.name, f"{BUILDERS}:{builder_name(self.changes)}", foreign=False)


def switches_of(args: ModelArgs) -> tuple[Switch, ...]:
    """Every row: the design as it is asked, each switch alone, then those together that belong together."""
    rows = [Switch(DEFAULT, {})]
    for each in dataclasses.fields(ModelArgs):
        if each.name.startswith(EFFICIENT_PREFIX):
            rows += [Switch(_said(each.name, value), {each.name: value}) for value in other_values(each, args)]
    for name, changes in COMBINED.items():
        left = {field: value for field, value in changes(args).items() if value != getattr(args, field)}
        if len(left) > 1:
            rows.append(Switch(name, left))
    return tuple(rows)


def other_values(option: dataclasses.Field, args: ModelArgs) -> tuple[Any, ...]:
    """What a switch is set to instead of what is asked, as far as the other arguments allow it."""
    asked = getattr(args, option.name)
    if isinstance(option.default, bool):
        values: Sequence[Any] = (not asked,)
    elif option.metadata.get("choices"):
        values = option.metadata["choices"]
    else:
        values = OTHER_VALUES.get(option.name, lambda args: (2 * asked,))(args)
    return tuple(value for value in values if value != asked and _possible(args, option.name, value))


def _possible(args: ModelArgs, name: str, value: Any) -> bool:
    try:
        dataclasses.replace(args, **{name: value})
    except UsageError:
        return False
    return True


def _said(name: str, value: Any) -> str:
    """'encoder_stride 1', 'graph_bias off'."""
    shown = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
    return f"{name.removeprefix(EFFICIENT_PREFIX)} {shown}"


def builder_name(changes: Mapping[str, Any]) -> str:
    """{'efficient_graph_bias': False, 'efficient_exit_below': 0.01} -> 'efficient_graph_bias__false__and__efficient_exit_below__0p01'."""
    said = {field: f"{Decimal(str(value)):f}" if isinstance(value, float) else str(value).lower() for field, value in changes.items()}
    return AND.join(f"{field}{IS}{value.replace('.', POINT)}" for field, value in said.items())


def settings_in(name: str) -> list[str]:
    """'efficient_graph_bias__false' -> ['efficient_graph_bias=false'], 'efficient_exit_below__0p01' -> ['efficient_exit_below=0.01']."""
    # A comma is what stood for the point in records of before.
    pairs = [each.rsplit(IS, 1) for each in name.split(AND)]
    return ["=".join((*field, re.sub(rf"(?<=\d)[{POINT},](?=\d)", ".", value))) for *field, value in pairs]


def settings_of(spec: str) -> list[str]:
    """'humar_bench.studies.ablate:efficient_graph_bias__false' -> ['efficient_graph_bias=false']."""
    name = spec.partition(":")[2]
    return settings_in(name) if name else []


def builder_of(name: str) -> Callable[[Any], Any]:
    """`efficient_graph_bias__false`, `efficient_memory_stride__1__and__efficient_cross_tokens__all`: builds the design with these set.

    Raises AttributeError, as the module does of which this is a name."""
    if not name.startswith(EFFICIENT_PREFIX):
        raise AttributeError(f"module {BUILDERS!r} has no attribute {name!r}")
    try:
        changes = parse_settings(settings_in(name))
    except HumarBenchError as error:
        raise AttributeError(str(error)) from None

    def build(args: Any) -> Any:
        return load_builder(DESIGN)(dataclasses.replace(ModelArgs.of(args), **changes))

    return build
