"""A device by its name, as `--device` takes it."""

from __future__ import annotations

from humar_bench.devices.cuda import CudaDevice
from humar_bench.devices.device import CpuDevice, Device
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.errors import UsageError


def open_device(name: str = "auto") -> Device:
    """The device called `name`: cpu, cuda, cuda:N, auto (cuda where there is one, else cpu) or virtual. Raises UsageError."""
    if name == "cpu":
        return CpuDevice()
    if name == "virtual":
        return VirtualDevice()
    kind, colon, number = name.partition(":")
    if name != "auto" and (kind != "cuda" or (colon and not number.isascii()) or (colon and not number.isdigit())):
        raise UsageError(f"the device {name!r} does not exist; choose cpu, cuda, cuda:N or auto.")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return CudaDevice(torch.cuda.current_device()) if count else CpuDevice()
    if not count:
        raise UsageError(f"the device {name!r} was asked for and torch {torch.__version__} finds no CUDA device here; use --device cpu.")
    index = int(number) if number else torch.cuda.current_device()
    if index >= count:
        raise UsageError(f"the device {name!r} does not exist; the highest CUDA device here is cuda:{count - 1}.")
    return CudaDevice(index)
