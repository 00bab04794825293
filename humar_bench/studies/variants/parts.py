"""Costs of a whole model from those of its parts, each counted once: backbones, text encoders, transformers, and what joins them.

Parameters and FLOPs of parts add up. Memory does not: while one part works, what earlier parts left is alive. So each part's peak is found
alone, the rest of the model is followed with stand-ins for the parts, which say what is alive when each is called, and the peak of the
whole is the highest of: the rest's own, and at each part what is alive there with the part's peak on top.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from humar_bench.args import ModelArgs, WholeWorkload
from humar_bench.measures.flops import FlopCount, OperatorFlops, count_flops
from humar_bench.measures.live_memory import MemoryPeak, track_peak
from humar_bench.measures.params import ParameterCount, count_parameters
from humar_bench.measures.storages import LiveTensor
from humar_bench.studies.variants.stand_in import Layout, Reached, StandIn, StandInBackbone, StandInTextEncoder
from humar_bench.subjects.making import made
from humar_bench.subjects.registry import Architecture, load_builder
from humar_bench.subjects.uniphd import TRANSFORMER, components_around, make_whole_inputs, on_fake, whole_model
from humar_bench.uniphd.backbones import build_backbone
from humar_bench.uniphd.prompts import Resizer
from humar_bench.uniphd.text_encoders import build_text_encoder

_SUMS = ("total", "trainable", "frozen", "buffers", "listed", "param_bytes", "buffer_bytes", "storage_bytes")


@dataclass(frozen=True)
class Part:
    """What one part costs alone, and what it leaves to the others."""

    parameters: ParameterCount
    flops: FlopCount | None  # None where the forward does not call it
    peak: MemoryPeak | None
    outputs: Layout | None
    wide: Any  # a backbone's channels, a text encoder's width


class _Alone(nn.Module):
    """One part as a component of its name, or with the component names `names`; keeps the layout of its outputs."""

    def __init__(self, part: nn.Module, name: str, names: Any = None) -> None:
        super().__init__()
        self.add_module(name.replace(" ", "_"), part)
        self.part = (part,)  # a second name of the same module would be a second path
        self.components = names or (("", name),)
        self.outputs: Layout | None = None

    def forward(self, *inputs: Any) -> Any:
        outputs = self.part[0](*inputs)
        self.outputs = Layout.of(outputs)
        return outputs


class Parts:
    """The parts of all whole models of one set of arguments on one workload, made when they are asked for and kept."""

    def __init__(self, args: ModelArgs, workload: WholeWorkload, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        self.args, self.workload, self.dtype, self.seed = args, workload, dtype, seed
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.inputs = {"meta": make_whole_inputs(workload, device="meta", dtype=dtype, seed=seed)}
        with self.fake:
            self.inputs["cpu"] = make_whole_inputs(workload, device="cpu", dtype=dtype, seed=seed)
        self._kept: dict[Hashable, Any] = {}

    def costs(self, architecture: Architecture, backbone: str, text_encoder: str) -> dict[str, dict[str, Any]]:
        """Measure -> what its record holds, of one whole model. Raises MeasurementError or UsageError where a part cannot be built."""
        front, text = self._backbone(backbone), self._text_encoder(text_encoder)
        around = self._around(architecture, backbone, text_encoder)
        return {
            "params": _parameters(_added([around.parameters, front.parameters, text.parameters])),
            "flops": _flops([each.flops for each in (around, around.transformer, front, text) if each.flops is not None]),
            "memory": self._memory(around, front, text),
        }

    def built(self, architecture: Architecture, backbone: str) -> nn.Module:
        """A model whose `built` says what the architecture made of the arguments."""
        return self._shells(architecture, self._backbone(backbone)).meta

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    # The parts -----------------------------------------------------------------------------------------------------------------------

    def _backbone(self, name: str) -> Part:
        def make() -> Part:
            model = self._built(name, lambda: build_backbone(name, self.workload.padded_size))
            return self._part("backbone", model, lambda device: (self.inputs[device].images,), wide=model.channels)

        return self._once(("backbone", name), make)

    def _text_encoder(self, name: str) -> Part:
        def make() -> Part:
            model = self._built(name, lambda: build_text_encoder(name))
            asked = self.workload.prompt == "text"
            captions = (lambda device: tuple(self.inputs[device].prompt)) if asked else None
            return self._part("text encoder", model, captions, wide=model.width)

        return self._once(("text encoder", name), make)

    def _built(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        return made(name, make, device="meta", dtype=self.dtype, seed=self.seed)

    def _part(
        self, name: str, model: nn.Module, inputs: Callable[[str], Sequence[Any]] | None, *, wide: Any = None, names: Any = None,
        strict: bool = True,
    ) -> Part:
        """Count a model on meta, then follow its memory on fake tensors; it is left fake."""
        alone = _Alone(model, name, names)
        parameters = count_parameters(alone)
        if inputs is None:
            return Part(parameters, None, None, None, wide)
        flops = count_flops(alone, inputs("meta"), strict=strict)
        with self.fake:
            peak = track_peak(on_fake(alone, "cpu"), inputs("cpu"))
        return Part(parameters, flops, peak, alone.outputs, wide)

    def _transformer(self, architecture: Architecture, given: Layout) -> Part:
        """A transformer on inputs that lie like those it is given in the whole model."""
        def make() -> Part:
            builder = load_builder(architecture)
            model = self._built(architecture.name, lambda: builder(self.args))
            return self._part(
                TRANSFORMER, model, given.made, names=components_around(model), strict=not architecture.foreign
            )

        return self._once((TRANSFORMER, architecture, given), make)

    # What joins them -----------------------------------------------------------------------------------------------------------------

    def _around(self, architecture: Architecture, backbone: str, text_encoder: str) -> _Around:
        """The rest of a whole model; backbones and text encoders whose outputs lie alike share it."""
        front, text = self._backbone(backbone), self._text_encoder(text_encoder)
        return self._once(
            ("around", architecture, front.wide, front.outputs, text.wide, text.outputs), lambda: self._follow(architecture, front, text)
        )

    def _follow(self, architecture: Architecture, front: Part, text: Part) -> _Around:
        shells = self._shells(architecture, front)
        projections = [self._built(architecture.name, lambda: Resizer(text.wide, self.args.hidden_dim)) for _ in range(2)]
        parameters = _added([shells.parameters, *(count_parameters(_Alone(each, "prompt")) for each in projections)])
        shells.project(projections, self.fake)

        def stand(shell: nn.Module, device: str, transformer: Layout | None) -> dict[str, StandIn]:
            found = {
                "backbone": StandInBackbone(front.outputs, front.wide, device),
                TRANSFORMER: StandIn(transformer, device),
                "text encoder": StandInTextEncoder(text.outputs, text.wide, device),
            }
            shell.backbone, shell.text_encoder = nn.ModuleList([found["backbone"]]), found["text encoder"]
            shell.transformer.stand_in = found[TRANSFORMER]
            return found

        with self.fake, torch.no_grad():
            stood = stand(shells.fake, "cpu", None)
            with contextlib.suppress(Reached):
                shells.fake(*self.inputs["cpu"])
        transformer = self._transformer(architecture, stood[TRANSFORMER].given)
        with self.fake:
            stood = stand(shells.fake, "cpu", transformer.outputs)
            peak = track_peak(shells.fake, self.inputs["cpu"])
        stand(shells.meta, "meta", transformer.outputs)
        flops = count_flops(shells.meta, self.inputs["meta"], strict=not architecture.foreign)
        return _Around(parameters, flops, peak, {name: each.alive for name, each in stood.items()}, transformer)

    def _shells(self, architecture: Architecture, front: Part) -> _Shells:
        """A whole model without its transformer; backbones of the same channels share it."""
        def make() -> _Shells:
            builder = load_builder(architecture)
            empty = {"backbone": StandInBackbone(None, front.wide, "meta"), "text_encoder": StandInTextEncoder(None, 1, "meta")}
            model = self._built(architecture.name, lambda: whole_model(self.args, self.workload, builder, **empty))
            model.text_proj = model.sentence_proj = None
            parameters = count_parameters(model)
            model.transformer = _Shell(model.transformer)
            twin = copy.deepcopy(model)
            with self.fake:
                on_fake(twin, "cpu")
            return _Shells(model, twin, parameters)

        return self._once(("shells", architecture, front.wide), make)

    def _memory(self, around: _Around, front: Part, text: Part) -> dict[str, Any]:
        """The predicted peak in the fields of a memory record; what only a real run could say is None."""
        phases = [_Phase(around.peak, ())]
        for name, part in (("backbone", front), ("text encoder", text), (TRANSFORMER, around.transformer)):
            if part.peak is not None:
                phases.append(_Phase(part.peak, around.alive[name]))
        highest = max(phases, key=lambda each: each.bytes)
        weights = sum(each.parameters.param_bytes for each in (around, front, text))
        buffers = sum(each.parameters.buffer_bytes for each in (around, front, text))
        unknown = dict.fromkeys(("allocator_bytes", "difference_bytes", "workspace_bytes", "resident_bytes", "cuda"))
        return {
            "weights_bytes": weights, "buffers_bytes": buffers, "inputs_bytes": around.peak.inputs_bytes,
            "outputs_bytes": around.peak.outputs_bytes, "peak_bytes": highest.bytes, "predicted_bytes": highest.bytes,
            "peak_operator": highest.peak.peak_operator, "peak_component": highest.peak.peak_component,
            "by_component": highest.by_component, "method": "live storages on fake tensors, part by part, not run", **unknown,
        }


@dataclass(frozen=True)
class _Around:
    """What joins the parts of a whole model, with the transformer it leads to; `alive` is what was there when each part was called."""

    parameters: ParameterCount  # with the transformer's
    flops: FlopCount
    peak: MemoryPeak
    alive: Mapping[str, tuple[LiveTensor, ...]]
    transformer: Part


@dataclass(frozen=True)
class _Shells:
    """A whole model with an empty transformer, on meta and on fake tensors, and the parameters of the full one but for the projections of
    text, which are as wide as the text encoder."""

    meta: nn.Module
    fake: nn.Module
    parameters: ParameterCount

    def project(self, projections: Sequence[nn.Module], mode: FakeTensorMode) -> None:
        """Give both these projections of text tokens and of the sentence."""
        self.meta.text_proj, self.meta.sentence_proj = projections
        with mode:
            self.fake.text_proj, self.fake.sentence_proj = (on_fake(copy.deepcopy(each), "cpu") for each in projections)


@dataclass(frozen=True)
class _Phase:
    """A part at work, on top of what earlier parts left."""

    peak: MemoryPeak
    alive: tuple[LiveTensor, ...]

    @property
    def bytes(self) -> int:
        return self.peak.peak_bytes + sum(each.bytes for each in self.alive)

    @property
    def by_component(self) -> dict[str, int]:
        found = Counter(self.peak.by_component)
        for each in self.alive:
            found[each.component] += each.bytes
        return dict(found)


class _Shell(nn.Module):
    """In place of a transformer: a stand-in, and the one head of its own that the whole model calls too."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.enc_out_class_embed = transformer.enc_out_class_embed
        self.stand_in: StandIn

    def forward(self, *inputs: Any) -> Any:
        return self.stand_in(*inputs)


# Adding up ------------------------------------------------------------------------------------------------------------------------


def _merged(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for each in tables:
        found.update(each)
    return dict(found)


def _added(counts: Sequence[ParameterCount]) -> ParameterCount:
    """Parameters of models that share none. Their modules are not listed."""
    sums = {name: sum(getattr(each, name) for each in counts) for name in _SUMS}
    return replace(counts[0], **sums, components=_merged(each.components for each in counts), modules=(), shared=())


def _parameters(count: ParameterCount) -> dict[str, Any]:
    """As a record holds it; which parameters a forward never reads is not looked for."""
    return {**count.measured(), "never_read": None, "never_read_reason": "it was not looked for."}


def _flops(counts: Sequence[FlopCount]) -> dict[str, Any]:
    """FLOPs of the parts of one forward, as a record holds them."""
    names = ("matmul_flops", "second_tier_flops")
    components: dict[str, dict[str, int]] = {}
    rows: dict[str, OperatorFlops] = {}
    for count in counts:
        for name, row in count.components.items():
            components[name] = _merged([components.get(name, {}), row])
        for row in count.operators:
            was = rows.get(row.operator)
            more = {} if was is None else {name: getattr(was, name) + getattr(row, name) for name in ("calls", *names)}
            rows[row.operator] = replace(row, **more)
    whole = replace(
        counts[0], **{name: sum(getattr(each, name) for each in counts) for name in (*names, "kernels", "synchronisations")},
        second_tier=_merged(each.second_tier for each in counts), components=components,
        operators=tuple(sorted(rows.values(), key=lambda row: (-row.matmul_flops, -row.second_tier_flops, row.operator))),
        uncounted=tuple(sorted(_merged(dict(each.uncounted) for each in counts).items())), modules={},
        method=max((each.method for each in counts), key=len),
    )
    return {**whole.measured(), "discarded": [], "cross_checks": []}
