"""A forward of equal kernels, and torch.cuda on a virtual device."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from humar_bench.devices.cuda import CudaDevice
from humar_bench.devices.telemetry import Nvml
from humar_bench.devices.virtual import VirtualDevice

US = 1e-6
MIB = 2**20


def forward(device, kernels=10, kernel_s=20 * US):
    """A forward of equal kernels."""
    return lambda: [device.launch(kernel_s) for _ in range(kernels)]


def fake_cuda(monkeypatch, devices=2):
    """torch.cuda on a virtual device: events in milliseconds, a spin in cycles of a 2 GHz clock."""
    virtual = VirtualDevice(launch_s=5 * US)

    class Event:
        def __init__(self, enable_timing=False):
            assert enable_timing

        def record(self, stream=None):
            self.event = virtual.record_event()

        def query(self):
            return virtual.event_done(self.event)

        def synchronize(self):
            virtual.wait_event(self.event)

        def elapsed_time(self, end):
            return 1e3 * virtual.elapsed_s(self.event, end.event)

    chosen = []
    stats = {"allocated_bytes.all.current": 512, "requested_bytes.all.current": 400, "reserved_bytes.all.current": 2 * MIB,
             "allocated_bytes.all.peak": 1024, "requested_bytes.all.peak": 800, "reserved_bytes.all.peak": 4 * MIB}
    stand_ins = {
        "is_available": lambda: True, "device_count": lambda: devices, "current_device": lambda: 0, "set_device": chosen.append,
        "get_device_name": lambda index: f"Fake {index}", "get_device_properties": lambda index: SimpleNamespace(uuid="1-2"),
        "synchronize": lambda index: virtual.synchronize(), "Event": Event,
        "current_stream": lambda index: SimpleNamespace(query=virtual.idle),
        "_sleep": lambda cycles: virtual.launch(cycles / 2e9), "memory_stats": lambda index: stats,
        "reset_peak_memory_stats": lambda index: stats.update({name: 0 for name in stats if name.endswith("peak")}),
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Nvml, "open", classmethod(lambda cls, index, uuid: None))
    monkeypatch.setattr(CudaDevice, "now_s", lambda self: virtual.now_s())
    monkeypatch.setattr(CudaDevice, "cpu_now_s", lambda self: virtual.cpu_now_s())
    return virtual, chosen
