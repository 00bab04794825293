"""One articulated person: proportions, joint angles within limits, and where every part of the body is.

Lengths are in body heights, angles in whole degrees. A frame is three unit vectors (X to the person's left, Y up, Z forward); camera
axes are x to the right, y up, z towards the camera, seen without perspective within one person. Sines come from a table of 14-bit
fractions, so that positions are the same on every machine.

Proportions and limits are round numbers near those of anthropometry (Winter, "Biomechanics and Motor Control of Human Movement",
table 4.1) and of clinical joint ranges (Norkin and White, "Measurement of Joint Motion").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from humar_bench.data.draws import Draws
from humar_bench.data.keypoints import INDEX, NAMES

Vector = tuple[float, float, float]
Frame = tuple[Vector, Vector, Vector]
SINE = tuple(math.floor(math.sin(math.radians(degree)) * 16384 + 0.5) / 16384 for degree in range(360))
UPRIGHT: Frame = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
SIDES = (("left", 1), ("right", -1))

# Lowest and highest angle; those of arms and legs hold for both sides. Positive: forwards, sidewards away from the body, hand upwards.
LIMITS: dict[str, tuple[int, int]] = {
    "lean": (-12, 35), "side": (-15, 15), "twist": (-30, 30), "nod": (-25, 35), "turn": (-60, 60), "tilt": (-20, 20),
    "shoulder_flex": (-45, 178), "shoulder_abduct": (-10, 165), "shoulder_twist": (-80, 90), "elbow_flex": (0, 145),
    "hip_flex": (-20, 110), "hip_abduct": (-8, 40), "hip_twist": (-15, 35), "knee_flex": (0, 140), "ankle_flex": (-40, 20),
}
ARM_ANGLES = ("shoulder_flex", "shoulder_abduct", "shoulder_twist", "elbow_flex")
LEG_ANGLES = ("hip_flex", "hip_abduct", "hip_twist", "knee_flex")
ARM_KEYPOINTS, LEG_KEYPOINTS = (
    {side: tuple(INDEX[f"{side}_{joint}"] for joint in limb) for side in ("left", "right")}
    for limb in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
)
# Right, up and forward of the head's middle, in head sizes.
ON_THE_HEAD = {
    "nose": (0.0, -0.014, 0.056), "left_eye": (0.021, 0.007, 0.041), "right_eye": (-0.021, 0.007, 0.041),
    "left_ear": (0.048, -0.002, -0.004), "right_ear": (-0.048, -0.002, -0.004), "left_lip": (0.012, -0.033, 0.044),
    "right_lip": (-0.012, -0.033, 0.044),
}

# Ranges that arms and legs are drawn from, by what they do.
ARMS: dict[str, tuple[tuple[int, int], ...]] = {
    "hang": ((-12, 15), (4, 16), (-25, 20), (4, 28)),
    "swing_front": ((12, 38), (2, 12), (-20, 15), (12, 60)),
    "swing_back": ((-38, -10), (4, 14), (-20, 15), (8, 40)),
    "hip": ((-30, -10), (36, 52), (-80, -55), (85, 108)),
    "reach": ((45, 100), (-4, 25), (-20, 25), (0, 50)),
    "hold": ((5, 35), (4, 22), (-50, 10), (70, 125)),
    "out": ((-5, 15), (65, 95), (-25, 45), (0, 40)),
    "lap": ((15, 35), (4, 18), (-45, -10), (25, 65)),
    "wave": ((-5, 15), (88, 118), (66, 90), (50, 95)),
    "up": ((145, 176), (-4, 22), (-30, 30), (0, 40)),
    "up_side": ((-5, 15), (128, 162), (-10, 60), (0, 35)),
}
RAISED_ARMS = ("wave", "up", "up_side")
LEGS: dict[str, tuple[tuple[int, int], ...]] = {
    "stand": ((-3, 6), (1, 9), (-4, 20), (0, 8)),
    "wide": ((-3, 10), (12, 24), (0, 25), (0, 12)),
    "step_front": ((16, 34), (0, 6), (-3, 10), (4, 24)),
    "step_back": ((-20, -8), (0, 6), (-3, 10), (6, 42)),
    "sit": ((74, 98), (2, 16), (-5, 15), (70, 102)),
}


class Part(NamedTuple):
    """A rounded bone from a to b (camera axes, body heights) with radii there, what it is made of, and which keypoints it shows."""

    name: str
    a: Vector
    b: Vector
    radius_a: float
    radius_b: float
    nearer: float  # towards the camera, over its own middle: what decides between parts of one body
    shows: tuple[int, ...] = ()

    @property
    def depth(self) -> float:
        return (self.a[2] + self.b[2]) / 2 + self.nearer


@dataclass(frozen=True)
class Build:
    """Proportions of one body. `child` is 0 for a grown-up, 1 for a small child."""

    child: float = 0.0
    girth: float = 1.0
    legs: float = 1.0

    @classmethod
    def drawn(cls, draws: Draws, child: bool) -> Build:
        return cls(draws.real(0.5, 1.0) if child else 0.0, draws.real(0.88, 1.2), draws.real(0.95, 1.05))

    @property
    def head(self) -> float:
        return 1.12 + 0.38 * self.child

    @property
    def hip_height(self) -> float:
        return (0.53 - 0.06 * self.child) * self.legs

    @property
    def shoulder_height(self) -> float:
        return 0.82 - 0.055 * self.child


@dataclass(frozen=True)
class Pose:
    """Joint angles by name (`LIMITS`; arms and legs once a side, "left_elbow_flex") and what the pose was drawn as."""

    angles: dict[str, int]
    sitting: bool = False
    raised: tuple[bool, bool] = (False, False)

    @classmethod
    def drawn(cls, draws: Draws, *, sitting: bool, raising: bool) -> Pose:
        """A pose within the limits: standing, walking or sitting, arms as chance has it, one or both up when `raising`."""
        walking = not sitting and draws.chance(0.4)
        angles = {
            "lean": draws.whole(-6, 10) if sitting else draws.whole(-3, 12), "side": draws.whole(-7, 7), "twist": draws.whole(-14, 14),
            "nod": draws.whole(-10, 20), "turn": draws.whole(-40, 40), "tilt": draws.whole(-10, 10),
        }
        front = draws.whole(0, 1)
        up = draws.pick(((True, False), (False, True), (True, False), (False, True), (True, True))) if raising else (False, False)
        stance = "sit" if sitting else "wide" if draws.chance(0.25) else "stand"
        for index, (side, _) in enumerate(SIDES):
            steps = index == front
            leg = ("step_front" if steps else "step_back") if walking else stance
            arm = (
                draws.pick(RAISED_ARMS) if up[index]
                else draws.pick(("lap", "lap", "hang", "hold")) if sitting
                else ("swing_back" if steps else "swing_front") if walking and draws.chance(0.7)
                else draws.pick(("hang", "hang", "hang", "hip", "reach", "hold", "out"))
            )
            ranges = zip(ARM_ANGLES + LEG_ANGLES, ARMS[arm] + LEGS[leg], strict=True)
            angles |= {f"{side}_{name}": draws.whole(low, high) for name, (low, high) in ranges}
            level = angles[f"{side}_knee_flex"] - angles[f"{side}_hip_flex"]  # keeps the sole flat
            angles[f"{side}_ankle_flex"] = _within("ankle_flex", level)
        return cls(angles, sitting, up)


@dataclass(frozen=True)
class Figure:
    """A posed body before the camera, its origin on the ground below the hips. Camera axes, body heights."""

    joints: dict[str, Vector]
    parts: tuple[Part, ...]
    trunk: Trunk
    face: Frame  # the head's frame
    seat: Vector | None  # middle of what it sits on; None standing
    root: Frame

    @cached_property
    def keypoints(self) -> list[Vector]:
        """COCO's 17, in their order."""
        return [self.joints[name] for name in NAMES]


class Trunk(NamedTuple):
    """Neck to hips as seen: ends of the axis and half widths of the silhouette there."""

    top: Vector
    bottom: Vector
    half_top: float
    half_bottom: float
    half_neck: float

    @property
    def depth(self) -> float:
        return (self.top[2] + self.bottom[2]) / 2


def _within(name: str, angle: int) -> int:
    low, high = LIMITS[name]
    return min(max(angle, low), high)


def _plus(a: Vector, b: Vector, times: float = 1.0) -> Vector:
    return (a[0] + b[0] * times, a[1] + b[1] * times, a[2] + b[2] * times)


def _combined(a: Vector, b: Vector, p: float, q: float) -> Vector:
    return (a[0] * p + b[0] * q, a[1] * p + b[1] * q, a[2] * p + b[2] * q)


def turned(frame: Frame, axis: int, degrees: int) -> Frame:
    """The frame turned about one of its own axes, right-handed: 0 X, 1 Y, 2 Z."""
    if not degrees:
        return frame
    sine, cosine = SINE[degrees % 360], SINE[(degrees + 90) % 360]
    first, second = frame[(axis + 1) % 3], frame[(axis + 2) % 3]
    rows = [frame[axis]] * 3
    rows[(axis + 1) % 3] = _combined(first, second, cosine, sine)
    rows[(axis + 2) % 3] = _combined(second, first, cosine, -sine)
    return rows[0], rows[1], rows[2]


def placed(frame: Frame, at: Vector, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Vector:
    """The point (x, y, z) of a frame whose origin is `at`."""
    X, Y, Z = frame
    return (
        at[0] + X[0] * x + Y[0] * y + Z[0] * z, at[1] + X[1] * x + Y[1] * y + Z[1] * z, at[2] + X[2] * x + Y[2] * y + Z[2] * z,
    )


def pose_figure(build: Build, pose: Pose, *, yaw: int, pitch: int) -> Figure:
    """Forward kinematics. `yaw` 0 faces the camera, 90 faces to the right of the picture; the camera looks down by `pitch` degrees."""
    root = turned(turned(UPRIGHT, 0, pitch), 1, yaw)
    legs = [_leg(side, sign, build, pose, root) for side, sign in SIDES]
    up = root[1]
    soles = [joint[0] * up[0] + joint[1] * up[1] + joint[2] * up[2] for _, _, _, *sole in legs for joint in sole]
    height = 0.024 - min(soles)  # the lowest sole is on the ground
    hips = (up[0] * height, up[1] * height, up[2] * height)
    joints: dict[str, Vector] = {}
    parts: list[Part] = []
    for (side, _), leg in zip(SIDES, legs, strict=True):
        _add_leg(side, [_plus(hips, joint) for joint in leg], build, pose, joints, parts)
    chest = turned(turned(turned(root, 0, pose.angles["lean"]), 2, pose.angles["side"]), 1, pose.angles["twist"])
    collar = placed(chest, hips, y=build.shoulder_height - build.hip_height)
    for side, sign in SIDES:
        _add_arm(side, sign, build, pose, chest, collar, joints, parts)
    face = _add_head(build, pose, chest, collar, joints, parts)
    seat = placed(root, hips, y=-0.075, z=0.03) if pose.sitting else None
    return Figure(joints, tuple(parts), _trunk(build, root, hips, chest, collar), face, seat, root)


def _leg(side: str, sign: int, build: Build, pose: Pose, root: Frame) -> tuple[Vector, Vector, Vector, Vector, Vector]:
    """Hip, knee, ankle, heel and toe of one side, from the middle between the hips."""
    angles = {name: pose.angles[f"{side}_{name}"] for name in (*LEG_ANGLES, "ankle_flex")}
    length = (build.hip_height - 0.042) / 2
    hip = placed(root, (0.0, 0.0, 0.0), x=0.052 * sign * build.girth)
    thigh = turned(turned(turned(root, 0, -angles["hip_flex"]), 2, sign * angles["hip_abduct"]), 1, sign * angles["hip_twist"])
    knee = _plus(hip, thigh[1], -length)
    shin = turned(thigh, 0, angles["knee_flex"])
    ankle = _plus(knee, shin[1], -length)
    foot = turned(shin, 0, -angles["ankle_flex"])
    return hip, knee, ankle, placed(foot, ankle, y=-0.02, z=-0.015), placed(foot, ankle, y=-0.024, z=0.1)


def _add_leg(
    side: str, leg: list[Vector], build: Build, pose: Pose, joints: dict[str, Vector], parts: list[Part]
) -> None:
    """Thigh, shin and foot of one side; a standing thigh lies under the shirt."""
    hip, knee, ankle, heel, toe = leg
    h, k, a = LEG_KEYPOINTS[side]
    joints |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
    nearer = -0.07 if pose.angles[f"{side}_hip_flex"] < 45 else -0.02
    parts += [
        Part("thigh", hip, knee, 0.056 * build.girth, 0.041 * build.girth, nearer, (h, k)),
        Part("shin", knee, ankle, 0.041 * build.girth, 0.028, -0.03, (k, a)),
        Part("foot", heel, toe, 0.026, 0.019, 0.0, (a,)),
    ]


def _add_arm(
    side: str, sign: int, build: Build, pose: Pose, chest: Frame, collar: Vector, joints: dict[str, Vector], parts: list[Part]
) -> None:
    """Upper arm, forearm and hand of one side; a raised arm lifts its shoulder."""
    flex, abduct, twist, elbow_flex = (pose.angles[f"{side}_{name}"] for name in ARM_ANGLES)
    girth = 0.5 + 0.5 * build.girth
    shoulder = placed(chest, collar, x=0.106 * sign * girth, y=0.022 if max(flex, abduct) > 90 else -0.008)
    upper = turned(turned(turned(chest, 0, -flex), 2, sign * abduct), 1, sign * twist)
    elbow = _plus(shoulder, upper[1], -0.165)
    lower = turned(upper, 0, -elbow_flex)
    wrist = _plus(elbow, lower[1], -0.145)
    hand = _plus(wrist, lower[1], -0.058)
    joints |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}
    s, e, w = ARM_KEYPOINTS[side]
    parts += [
        Part("upper_arm", shoulder, elbow, 0.041 * girth, 0.033 * girth, 0.02, (s, e)),
        Part("forearm", elbow, wrist, 0.031 * girth, 0.022, 0.03, (e, w)),
        Part("hand", wrist, hand, 0.021, 0.024, 0.03, (w,)),
    ]


def _trunk(build: Build, root: Frame, hips: Vector, chest: Frame, collar: Vector) -> Trunk:
    """The silhouette of two elliptic cylinders, chest and hips: half width² = (half breadth² of X + half depth² of Z) across the axis."""
    top, bottom = placed(chest, collar, y=0.038), placed(root, hips, y=-0.05)
    along = (top[0] - bottom[0], top[1] - bottom[1])
    length = max(math.sqrt(along[0] * along[0] + along[1] * along[1]), 1e-3)
    across = (along[1] / length, -along[0] / length)

    def half(frame: Frame, breadth: float, depth: float) -> float:
        x, z = (axis[0] * across[0] + axis[1] * across[1] for axis in (frame[0], frame[2]))
        return math.sqrt(breadth * x * (breadth * x) + depth * z * (depth * z))

    girth = build.girth
    half_top = half(chest, 0.118 * (0.5 + 0.5 * girth), 0.075 * girth)
    return Trunk(top, bottom, half_top, half(root, 0.098 * girth, 0.08 * girth), half(chest, 0.05, 0.045))


def _add_head(build: Build, pose: Pose, chest: Frame, collar: Vector, joints: dict[str, Vector], parts: list[Part]) -> Frame:
    """Neck and head; eyes, ears and nose lie on the head. Returns the head's frame."""
    angles, size = pose.angles, build.head
    base = placed(chest, collar, y=0.02)
    neck = turned(turned(chest, 0, angles["nod"] // 2), 2, angles["tilt"])
    top = _plus(base, neck[1], 0.045)
    head = turned(turned(neck, 1, angles["turn"]), 0, angles["nod"] - angles["nod"] // 2)
    middle = placed(head, top, y=0.047 * size, z=0.012 * size)
    joints["head"] = middle
    for name, (x, y, z) in ON_THE_HEAD.items():
        joints[name] = placed(head, middle, x * size, y * size, z * size)
    crown, chin = placed(head, middle, y=0.016 * size, z=-0.008 * size), placed(head, middle, y=-0.024 * size, z=0.004 * size)
    parts += [
        Part("neck", base, top, 0.032, 0.029, -0.01),
        Part("head", crown, chin, 0.052 * size, 0.039 * size, 0.03, (0, 1, 2, 3, 4)),
    ]
    return head
