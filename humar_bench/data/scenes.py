"""What is in a picture before it is drawn: people, things, light; laid out so that everybody can be told from what is drawn.

Coordinates are fractions of the picture's height, (x, y) from the top left; `scale` is the height of a grown-up at that distance. The
ground of something at scale s is at `horizon + camera * s`: perspective between people, none within one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from humar_bench.data.body import Build, Figure, Pose, Vector, pose_figure
from humar_bench.data.drawing import Colour, Point
from humar_bench.data.draws import Draws
from humar_bench.errors import UsageError

CLOTHES: dict[str, Colour] = {
    "red": (205, 40, 45), "orange": (240, 135, 30), "yellow": (245, 215, 55), "green": (45, 150, 70), "blue": (45, 85, 200),
    "purple": (130, 60, 170), "pink": (245, 150, 185), "white": (238, 238, 235), "grey": (135, 137, 142), "black": (38, 38, 44),
    "brown": (115, 72, 42),
}
SHIRTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "grey", "black")
LOWERS = ("blue", "black", "grey", "brown", "white", "green", "red")
HAIR: dict[str, Colour] = {
    "black": (30, 25, 25), "brown": (100, 62, 35), "blond": (226, 180, 72), "red": (185, 80, 30), "white": (228, 228, 230),
}
SKIN: tuple[Colour, ...] = ((244, 208, 180), (228, 182, 148), (198, 146, 108), (150, 102, 70), (104, 68, 48))
SHOES: tuple[Colour, ...] = ((50, 45, 45), (90, 60, 40), (225, 225, 225), (60, 60, 90))
WALLS: tuple[Colour, ...] = (
    (214, 205, 190), (190, 205, 214), (205, 214, 195), (222, 214, 222), (168, 178, 186), (226, 220, 200), (150, 160, 150), (184, 170, 160),
)
FLOORS: tuple[Colour, ...] = ((150, 125, 100), (120, 120, 125), (176, 164, 146), (100, 130, 85), (140, 110, 90), (196, 186, 170))
SKIES: tuple[Colour, ...] = ((160, 200, 235), (190, 212, 230), (206, 214, 222), (235, 210, 190))
MOST_TRIES = 1000


@dataclass(frozen=True)
class Level:
    """How hard the pictures are. `people` and `things` are lowest and highest numbers; `yaw` is the most that people turn away."""

    people: tuple[int, int]
    yaw: int
    height: tuple[float, float]  # of a grown-up in the middle distance, for one person
    spread: tuple[float, float]  # of distances
    background: str = "plain"
    things: tuple[int, int] = (0, 0)
    in_front: float = 0.0  # chance of a thing before everybody
    apart: float = 0.34  # least distance of neighbours, in heights of the smaller
    inside: bool = True  # nobody is cut by the picture's edge
    grain: float = 0.0


LEVELS = (
    Level((1, 1), 46, (0.62, 0.88), (1.0, 1.0)),
    Level((2, 4), 60, (0.62, 0.86), (0.86, 1.08), "room", apart=0.36, grain=4.0),
    Level((1, 4), 180, (0.62, 0.95), (0.6, 1.2), "anywhere", (1, 6), in_front=0.55, apart=0.2, inside=False, grain=9.0),
)


class Outfit(NamedTuple):
    """Colours by name, where a sentence can name them, and their tints; garments; hair."""

    shirt: str
    shirt_colour: Colour
    long_sleeves: bool
    lower: str
    lower_colour: Colour
    garment: str  # trousers, shorts or skirt
    hair: str
    hair_colour: Colour
    long_hair: bool
    hat: Colour | None
    skin: Colour
    shoes: Colour


class Thing(NamedTuple):
    """Something that stands on the ground or hangs on the wall; x its middle, sizes in fractions of the picture's height."""

    kind: str
    x: float
    y: float  # of its lower edge
    width: float
    height: float
    scale: float  # its distance, as a person's
    colour: Colour
    other: Colour

    def covers(self, point: Point) -> bool:
        """Whether the point is within its bounds."""
        return abs(point[0] - self.x) <= self.width / 2 and self.y - self.height <= point[1] <= self.y


@dataclass(frozen=True)
class Person:
    """Somebody in a scene."""

    figure: Figure
    build: Build
    pose: Pose
    outfit: Outfit
    x: float
    y: float
    scale: float  # picture heights per body height
    distance: float  # scale of a grown-up there: who is in front of whom
    yaw: int

    def at(self, joint: Vector) -> Point:
        """Where a joint is in the picture."""
        return self.x + joint[0] * self.scale, self.y - joint[1] * self.scale

    @cached_property
    def keypoints(self) -> list[Point]:
        """COCO's 17 in the picture."""
        return [self.at(joint) for joint in self.figure.keypoints]

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the keypoints and the head."""
        points = [*self.keypoints, self.at(self.figure.joints["head"])]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return min(xs), min(ys) - 0.06 * self.scale, max(xs), max(ys)

    def covers(self, point: Point) -> bool:
        """Whether the body, roughly, is in front of a point."""
        left, top, right, bottom = self.box
        margin = 0.08 * self.scale
        if not (left - margin <= point[0] <= right + margin and top - margin <= point[1] <= bottom + margin):
            return False
        trunk = self.figure.trunk
        bones = [(trunk.top, trunk.bottom, trunk.half_top, trunk.half_bottom)]
        bones += [(part.a, part.b, part.radius_a, part.radius_b) for part in self.figure.parts]
        return any(self._near(point, *bone) for bone in bones)

    def _near(self, point: Point, a: Vector, b: Vector, radius_a: float, radius_b: float) -> bool:
        (ax, ay), (bx, by) = self.at(a), self.at(b)
        dx, dy, px, py = bx - ax, by - ay, point[0] - ax, point[1] - ay
        squared = dx * dx + dy * dy
        share = min(max((px * dx + py * dy) / squared, 0.0), 1.0) if squared > 1e-9 else 0.0
        reach = (radius_a + share * (radius_b - radius_a)) * self.scale
        ox, oy = px - share * dx, py - share * dy
        return ox * ox + oy * oy <= reach * reach


@dataclass(frozen=True)
class Scene:
    """People and things of one picture of this aspect (width / height), and which person is meant."""

    level: Level
    aspect: float
    people: tuple[Person, ...]
    things: tuple[Thing, ...]
    horizon: float
    background: tuple[Colour, ...]  # upper, lower part of the wall; far, near floor; none of the last two on plain ground
    tint: Colour

    @cached_property
    def spans(self) -> list[tuple[float, float]]:
        """For every person, lowest and highest of what may be called its place across: the middles of box, keypoints and trunk.

        Of the keypoints as far as the picture reaches.
        """
        spans = []
        for person in self.people:
            xs, trunk = [min(max(x, 0.0), self.aspect) for x, _ in person.keypoints], person.figure.trunk
            middles = (min(xs) + max(xs)) / 2, sum(xs) / len(xs), person.x + (trunk.top[0] + trunk.bottom[0]) / 2 * person.scale
            spans.append((min(middles), max(middles)))
        return spans

    def seen(self, person: Person, point: Point) -> bool:
        """Whether nobody and nothing is before this point of a person, and the picture reaches to it."""
        if not (0.01 <= point[0] <= self.aspect - 0.01 and 0.01 <= point[1] <= 0.99):
            return False
        nearer = (each for each in (*self.people, *self.things) if _distance(each) > person.distance)
        return not any(each.covers(point) for each in nearer)


def _distance(of: Person | Thing) -> float:
    return of.distance if isinstance(of, Person) else of.scale


def marks(person: Person) -> dict[str, list[Point]]:
    """Points that show what a sentence may speak of: of head, shirt, lower garment, arms."""
    joints, trunk = person.figure.joints, person.figure.trunk
    between = [tuple(a + (b - a) * share for a, b in zip(trunk.top, trunk.bottom, strict=True)) for share in (0.3, 0.55, 0.8)]
    thighs = [
        tuple((a + b) / 2 for a, b in zip(joints[f"{side}_hip"], joints[f"{side}_knee"], strict=True)) for side in ("left", "right")
    ]
    return {
        "head": [person.at(joints["head"])],
        "shirt": [person.at(point) for point in between],
        "lower": [person.at(point) for point in (*thighs, joints["left_knee"], joints["right_knee"])],
        "arms": [person.at(joints[f"{side}_{joint}"]) for joint in ("wrist", "elbow") for side in ("left", "right")],
    }


def draw_scene(draws: Draws, level: int, aspect: float = 1.0) -> Scene:
    """A scene of this level. Raises UsageError for a level that is not one."""
    if not 0 <= level < len(LEVELS):
        raise UsageError(f"the level is {level}; choose one of {', '.join(map(str, range(len(LEVELS))))}.")
    for _ in range(MOST_TRIES):
        scene = _draw(draws, LEVELS[level], aspect)
        if all(_shows_enough(scene, person) for person in scene.people):
            return scene
    raise AssertionError("no scene in which everybody is seen")  # a scene in two or so passes


def _draw(draws: Draws, level: Level, aspect: float) -> Scene:
    number = draws.whole(*level.people)
    room = min(1.0, aspect * (1.0 - 0.1 * (number - 1)))  # the more people, the smaller; all must find a place
    scale = draws.real(*level.height) * room
    pitch = draws.whole(0, 14)
    camera = 0.75 + pitch * 0.03  # looking down from higher up
    horizon = draws.real(0.9, 0.98) - camera * scale
    people: list[Person] = []
    for x in _places(draws, level, number, scale, aspect):
        people.append(_draw_person(draws, level, x, scale * draws.real(*level.spread), horizon, camera, pitch))
    nearest = max(person.distance for person in people)
    outside = level.background == "anywhere" and draws.chance(0.5)
    things = _draw_things(draws, level, outside, aspect, horizon, camera, scale, nearest)
    background = _draw_background(draws, level.background, outside)
    return Scene(level, aspect, tuple(people), tuple(things), horizon, background, _draw_tint(draws, level))


def _places(draws: Draws, level: Level, number: int, scale: float, aspect: float) -> list[float]:
    """Where people stand, in a drawn order: chance places, pushed apart to the level's least distance, kept off the edges."""
    edge = 0.24 * scale if level.inside else 0.06 * scale
    low, high = min(edge, aspect / 2), max(aspect - edge, aspect / 2)
    gap = min(level.apart * scale, (high - low) / max(number - 1, 1))
    free = (high - low) - gap * (number - 1)
    places = sorted(draws.real(0, free) for _ in range(number))
    return draws.shuffled([low + place + gap * index for index, place in enumerate(places)])


def _draw_person(draws: Draws, level: Level, x: float, distance: float, horizon: float, camera: float, pitch: int) -> Person:
    child = draws.chance(0.2)
    build = Build.drawn(draws, child)
    pose = Pose.drawn(draws, sitting=draws.chance(0.22), raising=draws.chance(0.3))
    yaw = draws.whole(-level.yaw, level.yaw)
    tall = draws.real(0.55, 0.78) if child else draws.real(0.92, 1.06)
    figure = pose_figure(build, pose, yaw=yaw, pitch=pitch)
    return Person(figure, build, pose, draw_outfit(draws, pose), x, horizon + camera * distance, distance * tall, distance, yaw)


def draw_outfit(draws: Draws, pose: Pose) -> Outfit:
    """Clothes, hair and skin."""
    shirt, hair = draws.pick(SHIRTS), draws.pick(tuple(HAIR))
    lower = draws.pick([each for each in LOWERS if each != shirt])
    garment = draws.pick(("trousers", "trousers", "shorts") if pose.sitting else ("trousers", "trousers", "shorts", "skirt"))
    hat = _tinted(draws, CLOTHES[draws.pick(SHIRTS)]) if draws.chance(0.12) else None
    return Outfit(
        shirt, _tinted(draws, CLOTHES[shirt]), draws.chance(0.5), lower, _tinted(draws, CLOTHES[lower]), garment, hair,
        _tinted(draws, HAIR[hair]), draws.chance(0.45), hat, _tinted(draws, draws.pick(SKIN)), draws.pick(SHOES),
    )


def _tinted(draws: Draws, colour: Colour, most: int = 9) -> Colour:
    """The colour a little lighter or darker in each channel."""
    red, green, blue = (min(max(value + draws.whole(-most, most), 0), 255) for value in colour)
    return red, green, blue


def _draw_background(draws: Draws, kind: str, outside: bool) -> tuple[Colour, ...]:
    wall = _tinted(draws, draws.pick(SKIES if outside else WALLS), 14)
    lighter = tuple(min(value + draws.whole(0, 22), 255) for value in wall)
    if kind == "plain":
        return lighter, wall
    floor = _tinted(draws, (100, 130, 85) if outside else draws.pick(FLOORS), 12)
    darker = tuple(value * 0.82 for value in floor)
    return wall, lighter, darker, floor


def _draw_tint(draws: Draws, level: Level) -> Colour:
    if level.background != "anywhere":
        return 1.0, 1.0, 1.0
    light = draws.real(0.8, 1.08)
    warm = draws.real(-0.05, 0.05)
    return light * (1 + warm), light, light * (1 - warm)


# Width and height, in body heights at their distance: lowest, highest.
ON_THE_GROUND = {
    "box": ((0.25, 0.6), (0.2, 0.5)), "ball": ((0.12, 0.3), (0.12, 0.3)), "post": ((0.05, 0.09), (0.8, 1.7)),
    "bush": ((0.4, 0.8), (0.25, 0.5)), "tree": ((0.6, 1.1), (1.3, 2.0)), "bin": ((0.2, 0.3), (0.3, 0.5)),
}
OUTSIDE_ONLY = ("bush", "tree")
ON_THE_WALL = {"window": ((0.2, 0.5), (0.25, 0.5)), "picture": ((0.1, 0.3), (0.1, 0.25))}


def _draw_things(
    draws: Draws, level: Level, outside: bool, aspect: float, horizon: float, camera: float, scale: float, nearest: float
) -> list[Thing]:
    """Clutter on the wall, on the ground between and behind the people, and now and then before them all."""
    things, stands = [], [kind for kind in ON_THE_GROUND if outside or kind not in OUTSIDE_ONLY]
    for index in range(draws.whole(*level.things)):
        hangs = index % 2 == 1 and not outside
        kind = draws.pick(tuple(ON_THE_WALL) if hangs else stands)
        distance = scale * (0.4 if hangs else draws.real(0.5, 0.95))
        things.append(_draw_thing(draws, kind, draws.real(0, aspect), distance, horizon, camera))
    if draws.chance(level.in_front):
        low = draws.pick([kind for kind in stands if kind != "tree"])
        things.append(_draw_thing(draws, low, draws.real(0, aspect), nearest * draws.real(1.04, 1.25), horizon, camera))
    return things


def _draw_thing(draws: Draws, kind: str, x: float, distance: float, horizon: float, camera: float) -> Thing:
    widths, heights = (ON_THE_WALL | ON_THE_GROUND)[kind]
    width, height = draws.real(*widths) * distance, draws.real(*heights) * distance
    if kind == "ball":
        height = width
    y = horizon + camera * distance
    if kind in ON_THE_WALL:
        width, height = width * 1.5, height * 1.5
        y = horizon - draws.real(-0.02, 0.2)
    colour = _tinted(draws, CLOTHES[draws.pick(tuple(CLOTHES))], 25)
    green = (draws.whole(40, 90), draws.whole(95, 150), draws.whole(40, 80))
    return Thing(kind, x, y, width, height, distance, green if kind in ("bush", "tree") else colour, _tinted(draws, (110, 85, 60), 25))


def _shows_enough(scene: Scene, person: Person) -> bool:
    """Whether head, trunk and thighs are mostly seen; at the levels where nobody is cut, also that everything is inside."""
    left, top, right, bottom = person.box
    if scene.level.inside and not (left >= 0.01 and top >= 0.01 and right <= scene.aspect - 0.01 and bottom <= 0.995):
        return False
    shown = marks(person)
    points = shown["head"] + shown["shirt"] + shown["lower"][:2]
    return sum(scene.seen(person, point) for point in points) >= 4
