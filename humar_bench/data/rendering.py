"""A scene drawn: picture, each person's mask, and which keypoints can be seen."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from humar_bench.data.body import Part, Vector
from humar_bench.data.drawing import NOTHING, Canvas, Colour, Point, on_grid
from humar_bench.data.draws import Draws
from humar_bench.data.keypoints import INDEX
from humar_bench.data.scenes import Person, Scene, Thing

FACE = {0: 0.012, 1: 0.015, 2: 0.015, 3: -0.02, 4: -0.02}  # how far before the head's middle, in head sizes, each has to be to be seen
TRUNK = tuple(INDEX[f"{side}_{joint}"] for joint in ("shoulder", "hip") for side in ("left", "right"))
HIPS, EARS = TRUNK[2:], (INDEX["left_ear"], INDEX["right_ear"])
# Body heights: a shoulder or hip this far behind the trunk's middle is on its far side.
HIDDEN_BEHIND = {number: -0.085 if number < HIPS[0] else -0.042 for number in TRUNK}
EYE_COLOUR, LIP_COLOUR, SHADOW, WOOD, PANE = (40, 30, 30), (150, 70, 70), (30, 30, 30), (128, 92, 62), (175, 205, 230)
NOBODY = -1


class Rendering(NamedTuple):
    """uint8 [H, W, 3]; bool masks [n, H, W]; keypoints [n, 17, 3] with x, y and COCO's visibility (0 outside, 1 hidden, 2 seen)."""

    picture: np.ndarray
    masks: np.ndarray
    keypoints: np.ndarray


class _Drawn(NamedTuple):
    """What one owner number of the canvas stands for: whose, and the keypoints it shows."""

    person: int
    shows: tuple[int, ...]


def render(scene: Scene, draws: Draws, height: int) -> Rendering:
    """Draw a scene `height` pixels high, farther people and things first."""
    canvas = Canvas(height, math.floor(height * scene.aspect + 0.5))
    _draw_background(canvas, scene)
    drawn = [_Drawn(NOBODY, ())]  # number 0, NOTHING
    order: list[tuple[float, int, Person | Thing]] = [(person.distance, index, person) for index, person in enumerate(scene.people)]
    order += [(thing.scale, len(scene.people) + index, thing) for index, thing in enumerate(scene.things)]
    for _, index, each in sorted(order, key=lambda item: item[:2]):
        if isinstance(each, Thing):
            _draw_thing(canvas, each)
        else:
            _Painter(canvas, each, index, drawn).draw()
    grain = scene.level.grain
    picture, owner = canvas.picture(draws.grains(height, canvas.width) if grain else None, grain, scene.tint)
    whose = np.array([each.person for each in drawn], np.int16)[owner]
    masks = whose[None] == np.arange(len(scene.people), dtype=np.int16)[:, None, None]
    keypoints = np.array([_keypoints(owner, person, index, drawn) for index, person in enumerate(scene.people)])
    return Rendering(picture, masks, keypoints)


def pixel(point: Point, height: int) -> Point:
    """Fractions of the height -> pixels, where the first pixel's centre is 0."""
    return on_grid(point[0] * height - 0.5), on_grid(point[1] * height - 0.5)


def _draw_background(canvas: Canvas, scene: Scene) -> None:
    upper, lower, *floor = scene.background
    line = math.floor((scene.horizon + 0.08) * canvas.height) if floor else canvas.height
    canvas.fill(upper, lower, (0, line))
    if floor:
        canvas.fill(floor[0], floor[1], (max(line, 0), canvas.height))


def _keypoints(owner: np.ndarray, person: Person, index: int, drawn: list[_Drawn]) -> list[tuple[float, float, int]]:
    """x, y and visibility of the 17: 0 outside the picture, 2 where the topmost part is the person's and shows this keypoint, else 1."""
    trunk, middle, size = person.figure.trunk, person.figure.joints["head"], person.build.head
    (height, width), out = owner.shape, []
    for number, (joint, point) in enumerate(zip(person.figure.keypoints, person.keypoints, strict=True)):
        x, y = pixel(point, height)
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        if not (0 <= column < width and 0 <= row < height):
            out.append((0.0, 0.0, 0))
            continue
        top = drawn[owner[row, column]]
        seen = top.person == index and number in top.shows
        if number in FACE:
            seen = seen and joint[2] - middle[2] > FACE[number] * size
        elif number in HIDDEN_BEHIND:
            seen = seen and joint[2] - trunk.depth > HIDDEN_BEHIND[number]
        out.append((x, y, 2 if seen else 1))
    return out


class _Painter:
    """One person onto a canvas: shadow, seat, then the body's parts, farther ones first."""

    def __init__(self, canvas: Canvas, person: Person, index: int, drawn: list[_Drawn]) -> None:
        self.canvas, self.person, self.index, self.drawn = canvas, person, index, drawn
        self.scale = person.scale * canvas.height
        self.figure, self.outfit = person.figure, person.outfit
        outfit = person.outfit
        legs = {"trousers": (outfit.lower_colour,) * 2, "shorts": (outfit.lower_colour, outfit.skin), "skirt": (outfit.skin,) * 2}
        thigh, shin = legs[outfit.garment]
        self.colours = {
            "upper_arm": outfit.shirt_colour, "forearm": outfit.shirt_colour if outfit.long_sleeves else outfit.skin, "hand": outfit.skin,
            "neck": outfit.skin, "thigh": thigh, "shin": shin, "foot": outfit.shoes,
        }

    def draw(self) -> None:
        (x, y), scale, depth = pixel((self.person.x, self.person.y), self.canvas.height), self.scale, self.figure.trunk.depth
        self.canvas.ellipse((x + 0.04 * scale, y - 0.01 * scale), 0.2 * scale, 0.045 * scale, SHADOW, opacity=0.35)
        if self.figure.seat is not None:
            self.seat()
        steps = [(part.depth, self.head if part.name == "head" else self.bone, part.shows, part) for part in self.figure.parts]
        steps.append((depth, self.trunk, TRUNK, None))
        if self.outfit.garment == "skirt":
            steps.append((depth - 0.005, self.skirt, HIPS, None))
        if self.outfit.long_hair:
            steps.append((self.figure.joints["head"][2] - 0.07 * self.figure.face[2][2], self.long_hair, EARS, None))
        for _, paint, shows, part in sorted(steps, key=lambda step: step[0]):
            self.drawn.append(_Drawn(self.index, shows))
            paint(part, len(self.drawn) - 1)

    def at(self, joint: Vector) -> Point:
        """A joint in pixels, on the grid: `pixel` of `Person.at`, in one go."""
        person, height = self.person, self.canvas.height
        x, y = person.x + joint[0] * person.scale, person.y - joint[1] * person.scale
        return math.floor((x * height - 0.5) * 64 + 0.5) / 64, math.floor((y * height - 0.5) * 64 + 0.5) / 64

    def on_head(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Point:
        """Right, up and forward of the head's middle, in head sizes."""
        right, up, forward = self.figure.face
        middle, size = self.figure.joints["head"], self.person.build.head
        across = middle[0] + (right[0] * x + up[0] * y + forward[0] * z) * size
        return self.at((across, middle[1] + (right[1] * x + up[1] * y + forward[1] * z) * size, 0.0))

    def bone(self, part: Part, owner: int) -> None:
        radius_a, radius_b = part.radius_a * self.scale, part.radius_b * self.scale
        self.canvas.capsule(self.at(part.a), self.at(part.b), radius_a, radius_b, self.colours[part.name], owner)

    def trunk(self, _: None, owner: int) -> None:
        trunk, scale = self.figure.trunk, self.scale
        self.canvas.trunk(
            self.at(trunk.top), self.at(trunk.bottom), trunk.half_top * scale, trunk.half_bottom * scale, trunk.half_neck * scale,
            self.outfit.shirt_colour, owner, waist=0.012 * scale,
        )

    def skirt(self, _: None, owner: int) -> None:
        """From the waist to a hem above the knees, wide enough for both."""
        joints, trunk, scale = self.figure.joints, self.figure.trunk, self.scale
        (lx, ly, lz), (rx, ry, rz) = ([h + 0.8 * (k - h) for h, k in zip(joints[f"{side}_hip"], joints[f"{side}_knee"], strict=True)]
                                      for side in ("left", "right"))
        hem = ((lx + rx) / 2, (ly + ry) / 2, (lz + rz) / 2)
        wide = max(abs(lx - rx) / 2 + 0.055, trunk.half_bottom) + 0.015
        waist = (trunk.bottom[0], trunk.bottom[1] + 0.07, trunk.bottom[2])
        half = 0.95 * trunk.half_bottom * scale
        self.canvas.trunk(self.at(waist), self.at(hem), half, wide * scale, half, self.outfit.lower_colour, owner)

    def long_hair(self, _: None, owner: int) -> None:
        size = self.person.build.head * self.scale
        ends = self.on_head(z=-0.018), self.on_head(y=-0.1, z=-0.03)
        self.canvas.capsule(*ends, 0.052 * size, 0.046 * size, self.outfit.hair_colour, owner)

    def head(self, part: Part, owner: int) -> None:
        """Head, face and hat. The hairline runs where the head looks forward and a little down."""
        canvas, outfit, (_, up, forward), size = self.canvas, self.outfit, self.figure.face, self.person.build.head * self.scale
        look = [0.94 * f - 0.34 * u for f, u in zip(forward, up, strict=True)]
        radius_a, radius_b = part.radius_a * self.scale, part.radius_b * self.scale
        canvas.head(
            self.at(part.a), self.at(part.b), radius_a, radius_b, outfit.skin, outfit.hair_colour, (look[0], -look[1], look[2]), 0.12, owner
        )
        joints = self.figure.joints
        before = {name: (joints[name][2] - joints["head"][2]) / self.person.build.head for name in ("left_eye", "right_eye", "left_lip")}
        for side in ("left", "right"):
            if before[f"{side}_eye"] > FACE[1]:
                eye = self.at(joints[f"{side}_eye"])
                canvas.capsule(eye, eye, 0.0075 * size, 0.0075 * size, EYE_COLOUR)
        if before["left_lip"] > 0.01:
            nose = self.at(joints["nose"])
            canvas.capsule(nose, nose, 0.009 * size, 0.009 * size, _lit(outfit.skin, 0.9))
            canvas.capsule(self.at(joints["left_lip"]), self.at(joints["right_lip"]), 0.005 * size, 0.005 * size, LIP_COLOUR)
        if outfit.hat is not None:
            crown = self.on_head(y=0.035)
            canvas.capsule(crown, crown, 0.052 * size, 0.052 * size, outfit.hat, owner)
            if forward[2] > -0.3:
                canvas.capsule(crown, self.on_head(y=0.034, z=0.075), 0.02 * size, 0.014 * size, _lit(outfit.hat, 0.85), owner)

    def seat(self) -> None:
        """A block to sit on, turned like the person: its top and the sides that can be seen. It belongs to nobody."""
        (right, up, forward), seat = self.figure.root, self.figure.seat
        height = seat[0] * up[0] + seat[1] * up[1] + seat[2] * up[2]

        def corner(x: float, y: float, z: float) -> Point:
            x, y, z = 0.15 * x, -height * (1 - y), 0.13 * z - 0.05
            return self.at((seat[0] + right[0] * x + up[0] * y + forward[0] * z, seat[1] + right[1] * x + up[1] * y + forward[1] * z, 0.0))

        for sign in (-1, 1):
            if sign * forward[2] > 0:
                corners = [corner(-1, 0, sign), corner(1, 0, sign), corner(1, 1, sign), corner(-1, 1, sign)]
                self.canvas.polygon(corners, _lit(WOOD, 0.92), NOTHING)
            if sign * right[2] > 0:
                corners = [corner(sign, 0, -1), corner(sign, 0, 1), corner(sign, 1, 1), corner(sign, 1, -1)]
                self.canvas.polygon(corners, _lit(WOOD, 0.74), NOTHING)
        if up[2] > 0:
            self.canvas.polygon([corner(-1, 1, -1), corner(1, 1, -1), corner(1, 1, 1), corner(-1, 1, 1)], _lit(WOOD, 1.1), NOTHING)


def _lit(colour: Colour, light: float) -> Colour:
    red, green, blue = colour
    return red * light, green * light, blue * light


def _draw_thing(canvas: Canvas, thing: Thing) -> None:
    """Clutter; it belongs to nobody, so what it covers is nobody's."""
    left, top = pixel((thing.x - thing.width / 2, thing.y - thing.height), canvas.height)
    right, bottom = pixel((thing.x + thing.width / 2, thing.y), canvas.height)
    width, height, x = right - left, bottom - top, (left + right) / 2
    if thing.kind in ("window", "picture"):
        edge = 0.1 * min(width, height)
        _draw_frame(canvas, left, top, right, bottom, thing.other)
        _draw_frame(canvas, left + edge, top + edge, right - edge, bottom - edge, PANE if thing.kind == "window" else thing.colour)
        return
    canvas.ellipse((x + 0.1 * width, bottom), 0.6 * width, 0.12 * width, SHADOW, opacity=0.3)
    if thing.kind in ("box", "bin"):
        slope = 0.12 * width if thing.kind == "box" else 0.0
        lid = top + 0.22 * height
        _draw_frame(canvas, left, top + 0.2 * height, right, bottom, _lit(thing.colour, 0.72))
        canvas.polygon([(left + slope, top), (right - slope, top), (right, lid), (left, lid)], thing.colour, NOTHING)
    elif thing.kind == "ball":
        middle = (x, bottom - height / 2)
        canvas.capsule(middle, middle, height / 2, height / 2, thing.colour, NOTHING)
    elif thing.kind == "post":
        canvas.capsule((x, top + width / 2), (x, bottom), width / 2, width / 2, thing.colour, NOTHING)
    else:
        crown = 0.62 * height if thing.kind == "tree" else height
        if thing.kind == "tree":
            canvas.capsule((x, top + 0.4 * height), (x, bottom), 0.06 * width, 0.08 * width, thing.other, NOTHING)
        radius = min(0.28 * width, 0.5 * crown)
        for across, down in ((-0.22, 0.66), (0.22, 0.66), (0.0, 0.4)):
            leaf = (x + across * width, top + radius + down * max(crown - 2 * radius, 0.0))
            canvas.capsule(leaf, leaf, radius, radius, thing.colour, NOTHING)


def _draw_frame(canvas: Canvas, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour, NOTHING)
