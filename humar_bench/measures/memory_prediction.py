"""The peak of one forward without weights, inputs or a run: live storages under a fake tensor mode. Units: bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from humar_bench.errors import HumarBenchError
from humar_bench.measures.live_memory import MemoryPeak, track_peak
from humar_bench.measures.storages import LiveTensor
from humar_bench.measures.twins import fake_copy

ON_FAKES = "live storages on fake tensors"


@dataclass(frozen=True)
class Prediction:
    """The peak of one forward without a run, None for a model that cannot run on fake tensors; `method` says how or why not."""

    peak: MemoryPeak | None
    method: str

    def plain(self) -> dict[str, Any]:
        """The prediction as plain values, the largest tensors first."""
        return asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Prediction:
        """What `plain` made."""
        peak = values["peak"]
        if peak is not None:
            peak = MemoryPeak(**{**peak, "alive": tuple(LiveTensor(**{**each, "shape": tuple(each["shape"])}) for each in peak["alive"])})
        return cls(peak, values["method"])


def predict(build: Callable[[], nn.Module], make_inputs: Callable[[], Sequence[Any]], *, training: bool = False) -> Prediction:
    """`predict_peak`, or why there is none. Raises HumarBenchError of `build` or `make_inputs`."""
    try:
        return Prediction(predict_peak(build, make_inputs, training=training), ON_FAKES)
    except HumarBenchError:
        raise
    except Exception as error:
        return _not_predicted(error)


def _not_predicted(error: Exception) -> Prediction:
    """A model of somebody else may look at values, which fake tensors do not have, or hold what cannot be copied."""
    return Prediction(None, f"live storages of a real run, nothing was predicted (on fake tensors: {type(error).__name__})")


def predict_built(
    model: nn.Module, make_inputs: Callable[[], Sequence[Any]], device: str = "cpu", *, training: bool = False
) -> Prediction:
    """As `predict`, for a model that is there, real or on meta, and stays as it is: its builder may have done to its weights what fake
    tensors do not allow. What is on meta is taken for `device`. Raises HumarBenchError of `make_inputs`."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        twin, fakes = fake_copy(getattr(model, "_orig_mod", model), mode, device)  # of what torch.compile wrapped
        with mode, _no_addresses():
            return Prediction(track_peak(twin, make_inputs(), training=training, twins=fakes), ON_FAKES)
    except HumarBenchError:
        raise
    except Exception as error:
        return _not_predicted(error)


@contextlib.contextmanager
def _no_addresses() -> Iterator[None]:
    """A fake tensor lies nowhere: who reads or writes there by hand ends the process."""
    def refuse(tensor: Tensor) -> int:
        if isinstance(tensor, FakeTensor):
            raise RuntimeError("a fake tensor has no address")
        return where(tensor)

    where, own = Tensor.data_ptr, "data_ptr" in vars(Tensor)
    Tensor.data_ptr = refuse
    try:
        yield
    finally:
        if own:
            Tensor.data_ptr = where
        else:
            del Tensor.data_ptr


def predict_peak(build: Callable[[], nn.Module], make_inputs: Callable[[], Sequence[Any]], *, training: bool = False) -> MemoryPeak:
    """The peak of one forward (in training: forward and backward) without weights, inputs or a run: `build` and `make_inputs` are
    called under a fake tensor mode."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return track_peak(build(), make_inputs(), training=training)
