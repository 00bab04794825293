"""Smooth-edged shapes on a small canvas, and which shape every pixel shows.

Every number is made by single IEEE operations (+ - * / and square root, elementwise, in float32; coordinates in whole 64ths of a pixel),
so that all machines draw the same picture: no sums over arrays, no transcendental functions. Pixel centres are whole coordinates, (x, y)
from the top left. A shape covers a pixel by its signed distance from the edge, clipped to one pixel. Shapes are kept until `picture`, so
that all bones of a size are computed at once: most of the time goes into calls of numpy, not into pixels.

Shapes: H, W the canvas; h, w the part of it that a shape can reach; G bones of one size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Point = tuple[float, float]
Colour = tuple[float, float, float]  # red, green, blue from 0 to 255
Window = tuple[slice, slice]  # rows, columns
LIGHT = (-0.45, -0.6)  # where the light comes from, in the picture's plane
ROUND = 0.2  # how much light and edges of rounded shapes show
NOTHING = 0
TILE = 8  # bones are computed on squares whose side is a multiple of this


class _Bone(NamedTuple):
    """A line with a radius at each end."""

    a: Point
    b: Point
    radius_a: float
    radius_b: float

    @property
    def reach(self) -> float:
        return max(self.radius_a, self.radius_b)


class _Step(NamedTuple):
    """One shape: the pixels of its window that are its own [h, w], how much of what is below stays [h, w], what is added [3, h, w]."""

    window: Window
    own: np.ndarray
    keep: np.ndarray
    add: np.ndarray
    owner: int | None


def on_grid(value: float) -> float:
    """The nearest 64th of a pixel."""
    return math.floor(value * 64 + 0.5) / 64


class Canvas:
    """A picture in the making. Shapes lie over those drawn before; `owner` is a number of the caller's, None leaves what is below."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._colour = np.zeros((3, height, width), np.float32)
        self._owner = np.zeros((height, width), np.int16)
        self._steps: list[_Step | None] = []
        self._bones: defaultdict[int, list[tuple[int, Window, _Bone, Colour, int | None]]] = defaultdict(list)  # by side of their square
        self._x = np.arange(width, dtype=np.float32)
        self._y = np.arange(height, dtype=np.float32)[:, None]

    def picture(self, grains: np.ndarray | None = None, grain: float = 0.0, tint: Colour = (1, 1, 1)) -> tuple[np.ndarray, np.ndarray]:
        """Everything drawn, uint8 [H, W, 3], and the owner of each pixel's topmost shape [H, W].

        Colours are multiplied by `tint`; `grains`, bytes [H, W], are added as noise of at most `grain`.
        """
        self._compute_bones()
        for step in self._steps:
            self._lay(step)
        noise = (grains.astype(np.float32) - 127.5) * (grain / 127.5) + 0.5 if grains is not None else 0.5
        channels = []
        for channel, factor in zip(self._colour, tint, strict=True):
            lit = channel * factor + noise
            channels.append(np.minimum(np.maximum(lit, 0, out=lit), 255, out=lit).astype(np.uint8))
        return np.stack(channels, -1), self._owner

    def fill(self, top: Colour, bottom: Colour, rows: tuple[int, int]) -> None:
        """Rows of one colour that goes over into another, below all shapes."""
        first, last = max(rows[0], 0), min(rows[1], self.height)
        if last <= first:
            return
        share = (self._y[first:last] - rows[0]) / (rows[1] - rows[0])
        for channel in range(3):
            self._colour[channel, first:last] = share * (bottom[channel] - top[channel]) + top[channel]

    def capsule(self, a: Point, b: Point, radius_a: float, radius_b: float, colour: Colour, owner: int | None = None) -> None:
        """A rounded bone from a to b, lit like a cylinder."""
        if (window := self._reached(a, b, max(radius_a, radius_b))) is None:
            return
        rows, columns = window
        side = -(-max(rows.stop - rows.start, columns.stop - columns.start) // TILE) * TILE
        self._bones[side].append((len(self._steps), window, _Bone(a, b, radius_a, radius_b), colour, owner))
        self._steps.append(None)

    def head(
        self, a: Point, b: Point, radius_a: float, radius_b: float, skin: Colour, hair: Colour, forward: Sequence[float], hairline: float,
        owner: int,
    ) -> None:
        """A bone whose front is skin and whose rest is hair: skin where the surface looks along `forward` by more than `hairline`."""
        if (window := self._reached(a, b, max(radius_a, radius_b))) is None:
            return
        bone = _Bone(a, b, radius_a, radius_b)
        ux, uy, _ = _direction(bone)
        sides = (window[0].stop - window[0].start, window[1].stop - window[1].start)
        across, along, squared, radius = (each[0] for each in _from_bones([window], [bone], sides))
        px, py = (along * ux - across * uy) / radius, (along * uy + across * ux) / radius
        pz = np.sqrt(np.maximum(1 - px * px - py * py, 0))
        share = px * forward[0] + py * forward[1] + pz * forward[2]
        share = _clipped((share - hairline) * bone.reach + 0.5)
        light = px * (ROUND * LIGHT[0]) + py * (ROUND * LIGHT[1]) + pz * 0.14 + 0.84
        colour = np.stack([share * (s - h) + h for s, h in zip(skin, hair, strict=True)])
        self._add(window, radius - np.sqrt(squared), light, colour, owner)

    def trunk(
        self, a: Point, b: Point, half_a: float, half_b: float, half_neck: float, colour: Colour, owner: int | None, waist: float = 0.0
    ) -> None:
        """A flat-ended body from a to b: `half_neck` wide at a, sloping out to `half_a`, then to `half_b` at b, drawn in by a waist."""
        ux, uy, length = _direction(_Bone(a, b, half_a, half_b))
        if length < 1 or (window := self._reached(a, b, max(half_a, half_b))) is None:
            return
        x, y = self._x[window[1]] - a[0], self._y[window[0]] - a[1]
        along, across = x * ux + y * uy, y * ux - x * uy
        half = np.minimum(along * ((half_b - half_a) / length) + half_a, along * 1.7 + half_neck)
        left = length - along
        if waist:
            half -= along * left * (4 * waist / (length * length))
        edge = np.minimum(half - np.abs(across), np.minimum(along, left))
        across /= np.maximum(half, 1)
        light = across * (0.12 * (LIGHT[1] * ux - LIGHT[0] * uy)) - across * across * ROUND + 1.05
        self._add(window, edge, light, colour, owner)

    def polygon(self, corners: Sequence[Point], colour: Colour, owner: int | None = None) -> None:
        """A convex polygon, its corners in either order around it."""
        xs, ys = [each[0] for each in corners], [each[1] for each in corners]
        if (window := self._window(min(xs), min(ys), max(xs), max(ys))) is None:
            return
        x, y = self._x[window[1]], self._y[window[0]]
        middle = sum(xs) / len(xs), sum(ys) / len(ys)
        edge = np.full((len(y), len(x)), 1e6, np.float32)
        for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
            length = math.sqrt((bx - ax) * (bx - ax) + (by - ay) * (by - ay))
            if length < 1 / 64:
                continue
            nx, ny = (ay - by) / length, (bx - ax) / length
            inside = (middle[0] - ax) * nx + (middle[1] - ay) * ny
            nx, ny = (nx, ny) if inside > 0 else (-nx, -ny)
            np.minimum(edge, (x - ax) * nx + (y - ay) * ny, out=edge)
        self._add(window, edge, None, colour, owner)

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Colour, owner: int | None = None, opacity: float = 1.0) -> None:
        """A flat ellipse; with an opacity below 1 it darkens or tints, such as a shadow on the ground."""
        left, top, right, bottom = centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry
        if min(rx, ry) <= 0 or (window := self._window(left, top, right, bottom)) is None:
            return
        x, y = (self._x[window[1]] - centre[0]) / rx, (self._y[window[0]] - centre[1]) / ry
        self._add(window, (1 - np.sqrt(x * x + y * y)) * min(rx, ry), None, colour, owner, opacity)

    def _window(self, left: float, top: float, right: float, bottom: float) -> Window | None:
        """Rows and columns that something within these bounds can touch; None outside the canvas."""
        first, last = max(math.floor(left), 0), min(math.ceil(right) + 1, self.width)
        upper, lower = max(math.floor(top), 0), min(math.ceil(bottom) + 1, self.height)
        return None if last <= first or lower <= upper else (slice(upper, lower), slice(first, last))

    def _reached(self, a: Point, b: Point, reach: float) -> Window | None:
        """The window of everything within `reach` of the line from a to b."""
        (ax, ay), (bx, by) = a, b
        left, right = (ax, bx) if ax < bx else (bx, ax)
        top, bottom = (ay, by) if ay < by else (by, ay)
        return self._window(left - reach, top - reach, right + reach, bottom + reach)

    def _compute_bones(self) -> None:
        """Cover and light of every capsule, all squares of one size at once."""
        for side, capsules in self._bones.items():
            places, windows, bones, colours, owners = zip(*capsules, strict=True)
            across, along, squared, radius = _from_bones(windows, bones, (side, side))
            scales = [1 / max(bone.reach, 0.5) for bone in bones]
            lights = []
            for bone, scale in zip(bones, scales, strict=True):
                ux, uy, _ = _direction(bone)
                lights.append((ROUND * scale * (LIGHT[1] * ux - LIGHT[0] * uy), ROUND * scale * (LIGHT[0] * ux + LIGHT[1] * uy)))
            light_across, light_along = _columns(lights)
            light = across * light_across + along * light_along
            light -= squared * _columns([(ROUND * scale * scale,) for scale in scales])[0]
            light += 1.04
            radius -= np.sqrt(squared)
            radius += 0.5
            cover = _clipped(radius)
            light *= cover
            added = np.array(colours, np.float32)[:, :, None, None] * light[:, None]  # [G, 3, side, side]
            own, keep = cover > 0.5, 1 - cover
            for index, (rows, columns) in enumerate(windows):
                height, width = rows.stop - rows.start, columns.stop - columns.start
                self._steps[places[index]] = _Step(
                    windows[index], own[index, :height, :width], keep[index, :height, :width], added[index, :, :height, :width],
                    owners[index],
                )

    def _add(
        self, window: Window, edge: np.ndarray, light: np.ndarray | None, colour: Colour | np.ndarray, owner: int | None,
        opacity: float = 1.0,
    ) -> None:
        """Keep a shape that `edge` [h, w], the distance inside it, says where it is."""
        edge += 0.5
        cover = _clipped(edge)
        if opacity != 1:
            cover *= opacity
        lit = cover if light is None else light * cover
        paint = colour if isinstance(colour, np.ndarray) else np.array(colour, np.float32)[:, None, None]
        self._steps.append(_Step(window, cover > 0.5, 1 - cover, paint * lit, owner))

    def _lay(self, step: _Step) -> None:
        window, own, keep, add, owner = step
        if owner is not None:
            np.copyto(self._owner[window], owner, where=own)
        below = self._colour[:, window[0], window[1]]
        below *= keep
        below += add


def _clipped(array: np.ndarray) -> np.ndarray:
    """In place between 0 and 1."""
    return np.minimum(np.maximum(array, 0, out=array), 1, out=array)


def _columns(rows: Sequence[Sequence[float]]) -> list[np.ndarray]:
    """G rows of numbers -> one float32 [G, 1, 1] for each place in a row."""
    return list(np.array(rows, np.float32).T[:, :, None, None])


def _direction(bone: _Bone) -> tuple[float, float, float]:
    """Unit vector from a to b, and the length."""
    dx, dy = bone.b[0] - bone.a[0], bone.b[1] - bone.a[1]
    length = math.sqrt(dx * dx + dy * dy)
    return (dx / length, dy / length, length) if length > 0.1 else (1.0, 0.0, 0.0)


def _from_bones(
    windows: Sequence[Window], bones: Sequence[_Bone], sides: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[G, *sides] each, from the windows' top left: across and along from the bone's nearest point, squared distance, radius there."""
    rows = []
    for (top, left), bone in zip(windows, bones, strict=True):
        ux, uy, length = _direction(bone)
        slope = (bone.radius_b - bone.radius_a) / max(length, 0.1)
        rows.append((left.start - bone.a[0], top.start - bone.a[1], ux, uy, length, bone.radius_a, slope))
    x, y, ux, uy, length, radius, slope = _columns(rows)
    x = x + np.arange(sides[1], dtype=np.float32)  # [G, 1, w]
    y = y + np.arange(sides[0], dtype=np.float32)[:, None]  # [G, h, 1]
    across, along = y * ux - x * uy, x * ux + y * uy
    nearest = np.minimum(np.maximum(along, 0), length)
    along -= nearest
    squared = across * across
    squared += along * along
    nearest *= slope
    nearest += radius
    return across, along, squared, nearest
