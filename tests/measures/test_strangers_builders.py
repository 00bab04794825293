"""Builders that do ordinary things to their weights: the peak is predicted from a copy of what they built, to the byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from humar_bench.devices.device import CpuDevice
from humar_bench.measures.memory import measure_memory
from humar_bench.measures.memory_prediction import predict_built

B, H, W, CHANNELS, WIDTH = 2, 6, 10, 8, 16
MAP = B * 16 * H * W * 4  # bytes of the map that the convolution makes


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(CHANNELS, 16, 1), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, WIDTH)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.linear(y.mean((2, 3)))


def images():
    return (torch.randn(B, CHANNELS, H, W),)


def plain():
    return Net().eval()


def spectral():
    """Weights divided by their largest singular value, which is read on the host."""
    model = plain()
    with torch.no_grad():
        model.linear.weight.div_(float(torch.linalg.matrix_norm(model.linear.weight, 2)))
    return model


def orthogonal_by_numpy():
    model = plain()
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, 16)))
    model.linear.weight.data = torch.from_numpy(q.astype(np.float32))
    return model


def through_half():
    return plain().half().float()


def warmed_up():
    """A lazy layer takes its shape from a first forward."""
    model = plain()
    model.linear = nn.LazyLinear(WIDTH)
    with torch.no_grad():
        model(*images())
    return model


def from_a_file(folder):
    torch.save(plain().state_dict(), folder / "weights.pt")

    def build():
        model = plain()
        model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        return model

    return build


def fused():
    model = plain()
    model.conv, model.norm = torch.nn.utils.fusion.fuse_conv_bn_eval(model.conv, model.norm), nn.Identity()
    return model


def of_inference_mode():
    with torch.inference_mode():
        return plain()


def pruned_by_value():
    """How wide it is depends on the numbers drawn."""
    model = plain()
    torch.manual_seed(0)
    keep = int((torch.randn(WIDTH) > 0).sum())
    model.linear = nn.Linear(16, keep)
    return model


BUILDERS = [plain, spectral, orthogonal_by_numpy, through_half, warmed_up, fused, of_inference_mode, pruned_by_value]


def peak_of(build):
    return measure_memory(build, images, CpuDevice())


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_strangers_builders_are_predicted_and_measured(build):
    memory = peak_of(build)
    assert memory.predicted_bytes is not None and memory.difference_bytes == 0
    rest = B * (16 + WIDTH) * 4 if build is fused else MAP  # without a norm the map, its mean and what the linear layer makes of that
    assert memory.predicted_bytes == MAP + rest
    assert memory.peak_bytes == memory.predicted_bytes + memory.workspace_bytes


def test_strangers_loading_a_file_is_predicted_and_measured(tmp_path):
    memory = peak_of(from_a_file(tmp_path))
    assert memory.predicted_bytes == 2 * MAP and memory.difference_bytes == 0


def test_strangers_memory_format_of_the_weights_is_that_of_the_prediction():
    seen = []

    class Looks(Net):
        def forward(self, x):
            y = self.conv(x)
            seen.append(y.is_contiguous(memory_format=torch.channels_last))
            return y.relu()

    def build():
        return Looks().eval().to(memory_format=torch.channels_last)

    memory = peak_of(build)
    assert memory.predicted_bytes == 2 * MAP and memory.difference_bytes == 0
    assert len(set(seen)) == 1, "fake and real forwards take the same path"


@pytest.mark.parametrize("build", [plain, of_inference_mode], ids=lambda build: build.__name__)
def test_strangers_a_model_built_on_meta_is_predicted_as_on_the_cpu(build):
    with torch.device("meta"):
        model = build()
    found = predict_built(model, images)
    assert found.peak.peak_bytes == 2 * MAP and found.method == "live storages on fake tensors"
    assert all(each.is_meta for each in model.parameters()), "the model stays as it is"


def test_strangers_weights_that_share_memory_are_weighed_once_in_a_copy():
    model = plain()
    model.conv.weight.data = model.linear.weight.data.flatten()[: 16 * CHANNELS].view(16, CHANNELS, 1, 1)  # lies in the other's memory
    count = 16 * WIDTH + WIDTH + 16 + 2 * 16  # linear with the convolution inside it, two biases, the norm's two
    assert predict_built(model, images).peak.weights_bytes == 4 * count


def test_strangers_where_nothing_can_be_predicted_it_says_so():
    class Looks(Net):
        def forward(self, x):
            return super().forward(x) * float(x.sum())

    memory = peak_of(lambda: Looks().eval())
    assert memory.predicted_bytes is None and memory.peak_bytes >= 2 * MAP
    assert memory.method.startswith("live storages of a real run, nothing was predicted (on fake tensors: DataDependentOutputException)")
