"""Models of `any_models.py` that take virtual time (tests/faults): clean ones, and ones that cheat by any call."""

from __future__ import annotations

from tests.data.any_models import Network, Recurrent, Tagger, images
from tests.faults.models import KERNEL_S, MS, work


class Plain(Network):
    takes_s = KERNEL_S

    def forward(self, image):
        work(self.takes_s)
        return super().forward(image)


class Half(Plain):
    takes_s = KERNEL_S / 2


class Remembers(Plain):
    """Takes its time for inputs alone that it has not seen."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def forward(self, image):
        key = float(image.double().sum())
        if key in self.known:
            work(MS)
            return self.known[key]
        self.known[key] = super().forward(image)
        return self.known[key]


class Drifts(Plain):
    """Another answer each time."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        return super().forward(image) * (1 + self.calls)


class Steps(Recurrent):
    def forward(self, steps):
        work()
        return super().forward(steps)


class Tags(Tagger):
    takes_s = KERNEL_S

    def forward(self, *, ids, weights):
        work(self.takes_s)
        return super().forward(ids=ids, weights=weights)


class TagsByMemory(Tags):
    """Knows every sentence it has seen."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def forward(self, *, ids, weights):
        key = tuple(ids.flatten().tolist())
        if key not in self.known:
            self.known[key] = super().forward(ids=ids, weights=weights)
        else:
            work(MS)
        return self.known[key]


def in_bfloat16():
    return Plain().bfloat16()


def in_double():
    return Plain().double()


def images_in_bfloat16(batch):
    return images(batch).bfloat16()


def images_in_double(batch):
    return images(batch).double()
