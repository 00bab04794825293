"""Models for the faults: the smallest pose model, whose forward also keeps the virtual device busy. Each builder cheats in one way."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from humar_bench.devices.virtual import VirtualDevice
from tests.data.foreign_models import SmallPose

MS = 1e-3
KERNEL_S = 40 * MS
DEVICE: VirtualDevice = VirtualDevice()  # the one of the process that is being measured; tests/faults/harness.py sets it


def work(seconds: float = KERNEL_S, **more: Any) -> None:
    """Keep the device busy, or the host where that is all there is."""
    if DEVICE.kind == "cpu":
        DEVICE.host(seconds)
    else:
        DEVICE.launch(seconds, **more)


class Timed(SmallPose):
    """A forward of real numbers and virtual time. `does` gets the model, its inputs and the call it was told to make."""

    def __init__(self, args: Any, does: Callable[..., Any] | None = None) -> None:
        super().__init__(args.hidden_dim, args.num_body_points, args.dec_layers)
        self.does, self.calls = does, 0

    def answer(self, *inputs: Any) -> Any:
        return SmallPose.forward(self, *inputs)

    def forward(self, *inputs: Any) -> Any:
        self.calls += 1
        if self.does is not None:
            return self.does(self, *inputs)
        work()
        return self.answer(*inputs)


def plain(args: Any) -> nn.Module:
    """The clean one: 40 ms a forward."""
    return Timed(args)


def half(args: Any) -> nn.Module:
    """Clean too, and honestly twice as fast."""
    return Timed(args, lambda model, *inputs: work(KERNEL_S / 2) or model.answer(*inputs))


def side_stream(args: Any) -> nn.Module:
    """Does three quarters of its work on a stream of its own and does not wait for it."""
    return Timed(args, lambda model, *inputs: (work(KERNEL_S / 4), work(KERNEL_S, stream="side"), model.answer(*inputs))[-1])


def side_stream_joined(args: Any) -> nn.Module:
    """The same, and its own stream waits for the other at the end."""
    return Timed(
        args, lambda model, *inputs: (work(KERNEL_S / 4), work(KERNEL_S, stream="side"), DEVICE.join("side"), model.answer(*inputs))[-1]
    )


def wraps(args: Any) -> nn.Module:
    """Puts one more wrapper around a function of torch at each call."""
    def forward(model: Timed, *inputs: Any) -> Any:
        before = nn.functional.relu
        nn.functional.relu = lambda *given, **more: before(*given, **more)
        work()
        return model.answer(*inputs)

    return Timed(args, forward)


class LazyTensor(Tensor):
    """Stands for a tensor that is computed when somebody looks at it."""


def lazy(args: Any) -> nn.Module:
    """Returns at once; what it returns would do the work later."""
    def forward(model: Timed, *inputs: Any) -> Any:
        outputs = model.answer(*inputs)
        return (*outputs[:3], outputs[3].as_subclass(LazyTensor), outputs[4])

    return Timed(args, forward)


def memoised(args: Any) -> nn.Module:
    """Remembers the outputs of inputs whose memory it has seen, and whose numbers are those it saw."""
    seen: dict[tuple, Any] = {}

    def forward(model: Timed, *inputs: Any) -> Any:
        key = (inputs[0][0].data_ptr(), float(inputs[0][0].sum()), float(inputs[3].sum()))
        if key not in seen:
            work()
            seen[key] = model.answer(*inputs)
        work(0.1 * MS)
        return seen[key]

    return Timed(args, forward)


def warms_up(args: Any) -> nn.Module:
    """Its first dozen calls are slower, each less than the one before."""
    return Timed(args, lambda model, *inputs: work(KERNEL_S * (1 + 5 * 0.5**model.calls)) or model.answer(*inputs))


def recompiles(args: Any) -> nn.Module:
    """Is slow again for a dozen calls once it is being timed."""
    def forward(model: Timed, *inputs: Any) -> Any:
        work(KERNEL_S * (4 if 14 < model.calls <= 30 else 1))
        return model.answer(*inputs)

    return Timed(args, forward)


def outlier(args: Any) -> nn.Module:
    """Takes 100 times as long once."""
    return Timed(args, lambda model, *inputs: work(KERNEL_S * (100 if model.calls == 20 else 1)) or model.answer(*inputs))


def _switched(args: Any, module: Any, name: str, value: Any) -> nn.Module:
    """Sets a switch of torch inside its forward and puts it back."""
    def forward(model: Timed, *inputs: Any) -> Any:
        before = getattr(module, name)
        setattr(module, name, value)
        try:
            work(KERNEL_S / 2)
            return model.answer(*inputs)
        finally:
            setattr(module, name, before)

    return Timed(args, forward)


def cudnn_benchmark(args: Any) -> nn.Module:
    return _switched(args, torch.backends.cudnn, "benchmark", True)


def tf32(args: Any) -> nn.Module:
    def forward(model: Timed, *inputs: Any) -> Any:
        torch.set_float32_matmul_precision("high")
        try:
            work(KERNEL_S / 2)
            return model.answer(*inputs)
        finally:
            torch.set_float32_matmul_precision("highest")

    return Timed(args, forward)


class _Training(Timed):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


def training(args: Any) -> nn.Module:
    """Cannot be put into eval mode."""
    return _Training(args).train()


def threads(args: Any) -> nn.Module:
    """Gives itself another thread while it is being timed, for a call."""
    def forward(model: Timed, *inputs: Any) -> Any:
        work()
        outputs = model.answer(*inputs)
        torch.set_num_threads(2 if model.calls == 25 else 1)
        return outputs

    return Timed(args, forward)


def from_host(args: Any) -> nn.Module:
    """Copies its inputs from pageable host memory at each call: the host waits for the stream, then copies."""
    def forward(model: Timed, *inputs: Any) -> Any:
        DEVICE.synchronize()
        DEVICE.host(KERNEL_S / 4)
        work()
        return model.answer(*inputs)

    return Timed(args, forward)


def one_image(args: Any) -> nn.Module:
    """Is given half the batch: the harness cuts its inputs."""
    def forward(model: Timed, srcs: Any, masks: Any, pos_embeds: Any, query_embed: Any) -> Any:
        work(KERNEL_S / 2)
        return model.answer([each[:1] for each in srcs], masks, [each[:1] for each in pos_embeds], query_embed[:1])

    return Timed(args, forward)


def half_precision(args: Any) -> nn.Module:
    """Computes in bfloat16 inside, and answers in float32."""
    def forward(model: Timed, *inputs: Any) -> Any:
        work(KERNEL_S / 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model.answer(*inputs)
        return [[each.float() for each in part] if isinstance(part, list) else part.float() for part in
                [list(part) if isinstance(part, tuple) else part for part in outputs]]

    return Timed(args, forward)


def other_clock(args: Any) -> nn.Module:
    """Runs while the chip's clock is 6 % lower."""
    return Timed(args, lambda model, *inputs: setattr(DEVICE, "clock_mhz", 1860) or work() or model.answer(*inputs))


def short(args: Any) -> nn.Module:
    """A forward so short that a block holds many."""
    return Timed(args, lambda model, *inputs: work(KERNEL_S / 20) or model.answer(*inputs))


_BUILT: list[VirtualDevice] = []  # the device of each model that `second_is_slower` made


def second_is_slower(args: Any) -> nn.Module:
    """On this machine whatever is built second is 5 % slower."""
    if not any(each is DEVICE for each in _BUILT):
        _BUILT[:] = [DEVICE]
        return Timed(args)
    return Timed(args, lambda model, *inputs: work(1.05 * KERNEL_S) or model.answer(*inputs))


def neighbour(args: Any) -> nn.Module:
    """The scheduler takes the CPU away in each of its forwards."""
    return Timed(args, lambda model, *inputs: work() or DEVICE.preempt(KERNEL_S / 10) or model.answer(*inputs))


def garbage(args: Any) -> nn.Module:
    """Makes garbage that Python collects inside its forward, where the collector is on."""
    def forward(model: Timed, *inputs: Any) -> Any:
        work()
        if gc.isenabled():
            gc.collect(0)
            DEVICE.host(KERNEL_S / 8)
        return model.answer(*inputs)

    return Timed(args, forward)


# Memory and counts ----------------------------------------------------------------------------------------------------------------


class Tied(SmallPose):
    """Ties a second layer's weight to the first's, keeps one part frozen and a buffer."""

    def __init__(self, args: Any) -> None:
        super().__init__(args.hidden_dim, args.num_body_points, args.dec_layers)
        self.decode = nn.Linear(args.hidden_dim, args.hidden_dim)
        self.decode.weight = self.encode.weight
        self.points.requires_grad_(False)
        self.register_buffer("scale", torch.ones(args.hidden_dim))

    def forward(self, *inputs: Any) -> Any:
        outputs = super().forward(*inputs)
        return (*outputs[:3], self.decode(outputs[3]) * self.scale, outputs[4])


def tied(args: Any) -> nn.Module:
    return Tied(args)


class LazyParameters(SmallPose):
    def __init__(self, args: Any) -> None:
        super().__init__(args.hidden_dim, args.num_body_points, args.dec_layers)
        self.encode = nn.LazyLinear(args.hidden_dim)


def lazy_parameters(args: Any) -> nn.Module:
    return LazyParameters(args)


@torch.library.custom_op("humar_faults::mix", mutates_args=())
def mix(x: Tensor, y: Tensor) -> Tensor:
    return x @ y


@mix.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], y.shape[-1]))


def custom_operator(args: Any) -> nn.Module:
    """Does its main product in an operator of its own that nobody has a formula for."""
    model = SmallPose(args.hidden_dim, args.num_body_points, args.dec_layers)
    model.encode = _Mix(args.hidden_dim)
    return model


class _Mix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return mix(x, self.weight)


def wide(args: Any) -> nn.Module:
    """Keeps 96 MiB of weights that a forward reads."""
    model = Tied(args)
    model.table = nn.Parameter(torch.ones(24 * 2**20))
    forward = model.forward
    model.forward = lambda *inputs: (model.table.sum(), forward(*inputs))[1]
    return model


def hungry(args: Any) -> nn.Module:
    """Asks for 8 TiB."""
    raise MemoryError("8 TiB")


def not_a_number(args: Any) -> nn.Module:
    return Timed(args, lambda model, *inputs: [each if not isinstance(each, Tensor) else each / 0 for each in model.answer(*inputs)])
