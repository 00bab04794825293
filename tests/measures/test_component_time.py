"""Time by component: exclusive, complete and cheap, on a virtual clock; nothing here measures real time."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from humar_bench.devices.device import CpuDevice
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.errors import MeasurementError
from humar_bench.measures.component_time import time_components
from tests.measures.test_speed import MS, US, VirtualCpu
from tests.small_modules import same, state


class Part(nn.Module):
    """Works half of `own_s` before it calls its parts, and half after."""

    def __init__(self, device, own_s: float, **parts: nn.Module) -> None:
        super().__init__()
        self.device, self.own_s = device, own_s
        for name, part in parts.items():
            setattr(self, name, part)

    def work(self, seconds: float) -> None:
        if self.device.kind == "cpu":
            self.device.host(seconds, cpu_s=2 * seconds)
        else:
            self.device.launch(seconds)

    def inner(self) -> None:
        for part in self.children():
            part()

    def forward(self) -> None:
        self.work(self.own_s / 2)
        self.inner()
        self.work(self.own_s / 2)


class Decoder(Part):
    """Calls the heads of its list one by one, the last of them past `__call__`."""

    def inner(self) -> None:
        self.layer()
        for head in self.pose_embed[:-1]:
            head()
        self.pose_embed[-1].forward()


def model_on(device) -> Part:
    decoder = Decoder(device, 6 * MS, layer=Part(device, 1 * MS), pose_embed=nn.ModuleList(Part(device, 2 * MS) for _ in range(3)))
    encoder = Part(device, 10 * MS, local=Part(device, 4 * MS), block=Part(device, 5 * MS))
    model = Part(device, 3 * MS, encoder=encoder, decoder=decoder)
    model.components = (
        ("", "frame"), ("encoder", "encoder"), ("encoder.local", "local"), ("decoder", "decoder"), ("decoder.pose_embed", "heads"),
    )
    return model


OWN_S = {"frame": 3 * MS, "encoder": 15 * MS, "local": 4 * MS, "decoder": 7 * MS, "heads": 6 * MS}


def rounded(times: dict) -> dict:
    return {name: [pytest.approx(value) for value in values] for name, values in times.items()}


@pytest.mark.parametrize("device", [VirtualCpu(), VirtualDevice(launch_s=200 * US)], ids=["cpu", "streams"])
def test_a_components_time_is_its_own_and_all_of_them_are_the_forward(device):
    model = model_on(device)
    found = time_components(model, model, device, max_rounds=3)
    clock = found.clocks[0]
    assert found.rounds == 3 and {name: times[clock] for name, times in found.components.items()} == rounded(
        {name: [own_s] * 3 for name, own_s in OWN_S.items()}
    )
    assert found.instrumented[clock] == pytest.approx([35 * MS] * 3)
    assert found.plain["device_s" if device.kind == "virtual" else "wall_s"] == pytest.approx([35 * MS] * 3)
    assert found.entered == {"frame": 1, "encoder": 1, "local": 1, "decoder": 1, "heads": 3} and found.stamps == 2 * 6 + 2


def test_a_host_tells_wall_and_cpu_time_and_a_stream_that_launches_cost_nothing():
    device = VirtualCpu()
    model = model_on(device)
    found = time_components(model, model, device, max_rounds=1)
    assert found.clocks == ("wall_s", "cpu_s") and found.gate_held is None
    assert found.components["heads"] == {"wall_s": [pytest.approx(6 * MS)], "cpu_s": [pytest.approx(12 * MS)]}
    device = VirtualDevice(launch_s=5 * MS)  # far longer than the kernels: the host would set the pace
    model = model_on(device)
    found = time_components(model, model, device, max_rounds=2)
    assert found.components["heads"] == {"device_s": pytest.approx([6 * MS] * 2)} and found.gate_held == [True, True]
    assert found.plain["wall_s"][0] > 80 * MS > found.plain["device_s"][0] == pytest.approx(35 * MS)


def test_what_the_stamps_cost_is_the_difference_of_the_two_forwards():
    device = VirtualCpu(clock_read_s=10 * US)
    model = model_on(device)
    found = time_components(model, model, device, max_rounds=2)
    spans = found.stamps - 1
    assert found.instrumented["wall_s"] == pytest.approx([35 * MS + spans * 10 * US] * 2)
    assert found.plain["wall_s"] == pytest.approx([35 * MS + 10 * US] * 2)
    assert sum(times["wall_s"][0] for times in found.components.values()) == pytest.approx(found.instrumented["wall_s"][0])


def test_forwards_with_and_without_stamps_take_turns_until_the_budget_is_used():
    device, log = VirtualCpu(), []
    model = model_on(device)

    def call():
        log.append("stamped" if "forward" in vars(model.encoder) else "plain")
        model()

    assert time_components(model, call, device, budget_s=0.25).rounds == 4  # 70 ms a round
    assert log[-8:] == ["plain", "stamped", "stamped", "plain"] * 2
    assert time_components(model, call, device, budget_s=0.0).rounds == 1
    assert time_components(model, call, device, min_rounds=5, budget_s=0.0).rounds == 5
    assert time_components(model, call, device, max_rounds=2).rounds == 2


def test_a_module_that_two_components_call_belongs_to_the_path_it_is_called_by():
    device = VirtualCpu()
    shared = Part(device, 2 * MS)
    model = Part(device, 1 * MS, one=Part(device, 3 * MS, norm=shared), two=Part(device, 4 * MS, norm=shared))
    model.components = (("", "frame"), ("one", "one"), ("two", "two"), ("two.norm", "norm"))
    found = time_components(model, model, device, max_rounds=1)
    assert {name: times["wall_s"] for name, times in found.components.items()} == rounded(
        {"frame": [1 * MS], "one": [5 * MS], "two": [4 * MS], "norm": [2 * MS]}
    )


def test_a_component_that_some_forwards_leave_out_took_no_time_in_them():
    device = VirtualCpu()
    model = Part(device, 1 * MS, rare=Part(device, 2 * MS), usual=Part(device, 3 * MS))
    turns = iter([True, False, False, True, False])  # the first forward, then plain, stamped, stamped, plain
    model.inner = lambda: model.usual() or next(turns) and model.rare()
    found = time_components(model, model, device, max_rounds=2, check=lambda outputs: device.host(1.0))  # no second warm-up
    assert found.components["rare"]["wall_s"] == [0.0, pytest.approx(2 * MS)]
    assert found.components["usual"]["wall_s"] == pytest.approx([3 * MS] * 2)


def test_the_model_is_as_before_also_when_its_forward_raises():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2))).eval()
    model.components = (("0", "first"), ("1", "rest"), ("", "frame"))
    inputs, before, forwards = torch.randn(5, 3), state(model), []

    def call():
        forwards.append("forward" in vars(model[1]))
        if forwards.count(True) == 3:  # the first has no stamps yet
            raise RuntimeError("in the middle of the timing")
        with torch.inference_mode():
            return model(inputs)

    with pytest.raises(RuntimeError, match="in the middle"):
        time_components(model, call, CpuDevice(), min_rounds=9)
    assert same(state(model), before)
    assert forwards.count(True) == 3
    assert time_components(model, call, CpuDevice(), max_rounds=2).entered == {"frame": 1, "first": 1, "rest": 1}
    assert same(state(model), before)


def test_torchs_fused_encoder_layer_is_still_taken(monkeypatch):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    model, taken = nn.Sequential(layer, nn.Linear(8, 8)), []
    fused = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *given: taken.append(1) or fused(*given))
    inputs, forwards = torch.randn(2, 3, 8), []

    def call():
        forwards.append(1)
        with torch.inference_mode():
            model(inputs)

    found = time_components(model, call, CpuDevice(), max_rounds=2)
    assert len(taken) == len(forwards) and set(found.components) == {"(top)", "0", "1"}


def test_a_compiled_or_scripted_part_is_one_piece_of_its_caller():
    traced = torch.jit.trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(2, 3))
    compiled = nn.Module()
    compiled._orig_mod = nn.Linear(3, 3)
    compiled.forward = compiled._orig_mod.forward
    model = nn.Sequential(nn.Linear(3, 3), traced, compiled)
    found = time_components(model, lambda: model(torch.zeros(2, 3)), CpuDevice())
    assert set(found.components) == {"(top)", "0"}


def test_strangers_what_torch_compiles_by_itself_is_one_piece_of_its_caller():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda t: self.one(t), lambda t: self.other(t), (self.before(x),))

    model, x = Branches().eval(), torch.randn(3, 4)
    model.components = (("before", "before"), ("one", "one"), ("other", "other"))
    with torch.inference_mode():
        found = time_components(model, lambda: model(x), CpuDevice(), budget_s=0.0)
    assert set(found.entered) == {"(top)", "before"}
    torch.compiler.reset()


def test_the_first_outputs_are_checked_and_what_the_check_raises_ends_it():
    def refuse(outputs):
        raise MeasurementError(f"{outputs} is not finite.")

    with pytest.raises(MeasurementError, match="7 is not finite"):
        time_components(nn.Module(), lambda: 7, VirtualCpu(), check=refuse)


def test_measured_is_plain_and_complete():
    device = VirtualDevice()
    model = model_on(device)
    measured = time_components(model, model, device, max_rounds=2).measured()
    assert json.loads(json.dumps(measured)) == measured
    assert measured["rounds"] == 2 and measured["clocks"] == ["device_s"] and len(measured["components"]["heads"]["device_s"]) == 2
