"""A sentence that fits exactly one person of a scene.

An attribute is (kind, value). For every person it is true, false or unclear (None: near a border, under a hat). A sentence names true
attributes of the person meant that can be seen in the picture, and for everybody else at least one of them is false, not unclear.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Sequence

from humar_bench.data.draws import Draws
from humar_bench.data.scenes import CLOTHES, HAIR, Person, Scene, marks

Attribute = tuple[str, str]
Truth = bool | None

CLEAR = 0.05  # picture heights between people whose order is clear
BIGGER, TALLER = 1.2, 1.1  # ratios of sizes that are clear: of the whole body, of what is seen of it
ALONE = ("middle", "second from the left", "second from the right")  # places that another attribute would make ambiguous
BY_PLACE = 0.25  # chance that the place alone is named, where it can be: people point first
REDUNDANT = 0.35  # chance of one attribute more than needed
NOUNS = ("person", "person", "one", "figure", "human")
GARMENTS = {"trousers": ("{} trousers", "{} pants"), "shorts": ("{} shorts",), "skirt": ("a {} skirt",)}

# Wordings before the noun, after it, and as a clause at the end.
BEFORE: dict[str, tuple[str, ...]] = {
    "hair": ("{}-haired",), "sitting": ("seated", "sitting"), "standing": ("standing",), "biggest": ("biggest", "largest", "tallest"),
    "smallest": ("smallest", "littlest", "shortest"), "leftmost": ("leftmost",), "rightmost": ("rightmost",), "left": ("left-hand",),
    "right": ("right-hand",), "middle": ("middle",),
}
AFTER: dict[str, tuple[str, ...]] = {
    "shirt": ("in a {} shirt", "wearing a {} shirt", "in the {} shirt", "with a {} top", "dressed in a {} top"),
    "lower": ("in {}", "wearing {}", "with {}"),
    "hair": ("with {} hair",),
    "sitting": ("sitting down", "sitting on a box"),
    "standing": ("standing up", "on their feet"),
    "raised": ("raising an arm", "with an arm raised", "with a hand up", "holding an arm up"),
    "leftmost": ("farthest to the left", "on the far left"),
    "rightmost": ("farthest to the right", "on the far right"),
    "left": ("on the left", "on the left side", "to the left"),
    "right": ("on the right", "on the right side", "to the right"),
    "middle": ("in the middle", "in the centre", "between the two others"),
    "second from the left": ("second from the left",),
    "second from the right": ("second from the right",),
}
CLAUSES: dict[str, tuple[str, ...]] = {
    "shirt": ("whose shirt is {}", "who has a {} shirt on"), "hair": ("whose hair is {}",), "sitting": ("who is sitting",),
    "standing": ("who is standing",), "raised": ("who has an arm in the air", "who holds a hand up"),
}
BARE = ("{noun}", "the {noun}", "the {noun}")


def draw_sentence(draws: Draws, scene: Scene, meant: int, unsaid: Container[str] = ()) -> str | None:
    """A sentence that fits person number `meant` only, without attributes of the kinds `unsaid`; None where there is none."""
    chosen = _choose(draws, scene, meant, unsaid)
    return None if chosen is None else _say(draws, scene.people[meant], chosen)


def truth(scene: Scene, index: int, attribute: Attribute) -> Truth:
    """Whether an attribute holds for a person of the scene; None where that is unclear."""
    kind, value = attribute
    return _TRUTHS[kind](scene, index, value)


def attributes_of(scene: Scene, index: int) -> list[Attribute]:
    """What is true of a person, and shows."""
    person = scene.people[index]
    outfit, shown = person.outfit, {name: [scene.seen(person, point) for point in points] for name, points in marks(person).items()}
    asked: list[tuple[Attribute, bool]] = [
        (("shirt", outfit.shirt), sum(shown["shirt"]) >= 2),
        (("lower", outfit.lower), sum(shown["lower"]) >= 2 and not (person.pose.sitting and abs(person.yaw) > 110)),
        (("hair", outfit.hair), all(shown["head"])),
        (("posture", "sitting" if person.pose.sitting else "standing"), sum(shown["lower"]) >= 3),
        (("arm", "raised"), any(shown["arms"][side] and raised for side, raised in enumerate(_raised(person)))),
    ]
    asked += [(("size", value), True) for value in ("biggest", "smallest")]
    asked += [(("place", value), True) for value in ("left", "right", "leftmost", "rightmost", *ALONE)]
    return [attribute for attribute, shows in asked if shows and truth(scene, index, attribute)]


def _choose(draws: Draws, scene: Scene, meant: int, unsaid: Container[str]) -> list[Attribute] | None:
    """Attributes that together leave nobody else: as few as will do, now and then one more."""
    true = [each for each in attributes_of(scene, meant) if each[0] not in unsaid]
    others = [index for index in range(len(scene.people)) if index != meant]
    rules_out = {each: frozenset(index for index in others if truth(scene, index, each) is False) for each in true}
    fits: list[tuple[Attribute, ...]] = []
    for size in (1, 2, 3):
        for chosen in itertools.combinations(true, size):
            if size > 1 and any(value in ALONE for _, value in chosen) or len({kind for kind, _ in chosen}) < size:
                continue
            if any(set(smaller) <= set(chosen) for smaller in fits):
                continue
            if len(frozenset().union(*(rules_out[each] for each in chosen))) == len(others):
                fits.append(chosen)
    if not fits:
        return None
    offered = sorted({tuple(kind for kind, _ in chosen) for chosen in fits})
    kinds = ("place",) if ("place",) in offered and draws.chance(BY_PLACE) else draws.pick(offered)
    chosen = list(draws.pick([each for each in fits if tuple(kind for kind, _ in each) == kinds]))
    more = [each for each in true if each[0] not in kinds and each[1] not in ALONE]
    if more and len(chosen) < 3 and not any(value in ALONE for _, value in chosen) and draws.chance(REDUNDANT):
        chosen.append(draws.pick(more))
    return chosen


def _say(draws: Draws, person: Person, chosen: Sequence[Attribute]) -> str:
    """Words for the attributes: at most one before the noun, at most one clause, which comes last."""
    before, after, clause = "", [], ""
    for kind, value in draws.shuffled(chosen):
        key, word = (kind, value) if kind in ("shirt", "lower", "hair") else (value, "")
        ways = [(AFTER, wording) for wording in AFTER.get(key, ())]
        ways += [(BEFORE, wording) for wording in BEFORE.get(key, ()) if not before]
        ways += [(CLAUSES, wording) for wording in CLAUSES.get(key, ()) if not clause]
        if not ways:  # said before the noun only, and that place is taken
            ways = [(CLAUSES, f"who is the {wording}") for wording in BEFORE[key]]
        where, wording = draws.pick(ways)
        if kind == "lower":
            word = draws.pick(GARMENTS[person.outfit.garment]).format(value)
        text = _with_article(wording.format(word))
        if where is BEFORE:
            before = f"{text} "
        elif where is CLAUSES:
            clause = f"{clause} and {text}" if clause else text
        else:
            after.append((kind == "place", text))
    noun = draws.pick(BARE).format(noun=before + draws.pick(NOUNS))
    return " ".join([noun, *(text for _, text in sorted(after, key=lambda each: each[0])), *([clause] if clause else [])])


def _with_article(text: str) -> str:
    return text.replace("a orange", "an orange")


def _raised(person: Person) -> tuple[Truth, Truth]:
    """Each arm: up when the wrist is above the eyes, not up when it is below the shoulder, unclear between."""
    joints, margin = person.figure.joints, 0.02
    eyes = max(joints["left_eye"][1], joints["right_eye"][1])
    out: list[Truth] = []
    for side in ("left", "right"):
        wrist, shoulder = joints[f"{side}_wrist"][1], joints[f"{side}_shoulder"][1]
        out.append(True if wrist > eyes + margin else False if wrist < shoulder - margin else None)
    return out[0], out[1]


def _arm(scene: Scene, index: int, value: str) -> Truth:
    arms = _raised(scene.people[index])
    return True if True in arms else None if None in arms else False


def _hair(scene: Scene, index: int, value: str) -> Truth:
    outfit = scene.people[index].outfit
    return None if outfit.hat is not None else outfit.hair == value


def _posture(scene: Scene, index: int, value: str) -> Truth:
    return scene.people[index].pose.sitting == (value == "sitting")


def _size(scene: Scene, index: int, value: str) -> Truth:
    """Bigger or smaller than everybody else in the picture by a clear ratio, and not the other way round in truth.

    Unclear where somebody is cut by the edge.
    """
    people = scene.people
    boxes = [person.box for person in people]
    if len(people) < 2 or any(left < 0 or top < 0 or right > scene.aspect or bottom > 1 for left, top, right, bottom in boxes):
        return None
    whole = [person.scale for person in people]
    seen = [bottom - top for _, top, _, bottom in boxes]
    true = [person.scale / person.distance for person in people]
    verdicts = []
    for other in range(len(people)):
        if other == index:
            continue
        big, small = (index, other) if value == "biggest" else (other, index)
        if whole[big] >= BIGGER * whole[small] and seen[big] >= TALLER * seen[small] and true[big] >= true[small]:
            verdicts.append(True)
        elif whole[small] >= BIGGER * whole[big] and seen[small] >= TALLER * seen[big] and true[small] >= true[big]:
            verdicts.append(False)
        else:
            verdicts.append(None)
    return False if False in verdicts else None if None in verdicts else True


def _left_of(a: tuple[float, float], b: tuple[float, float]) -> Truth:
    return True if a[1] + CLEAR < b[0] else False if b[1] + CLEAR < a[0] else None


def _place(scene: Scene, index: int, value: str) -> Truth:
    spans = scene.spans
    own, middle = spans[index], scene.aspect / 2
    if value in ("left", "right"):
        low, high = own if value == "left" else (2 * middle - own[1], 2 * middle - own[0])
        return True if high < 0.88 * middle else False if low > middle else None
    if len(spans) < 2:
        return None
    others = [span for other, span in enumerate(spans) if other != index]
    order = [_left_of(span, own) for span in others]  # whether each other is left of this one
    if value in ("leftmost", "rightmost"):
        wrong = value == "leftmost"
        return False if wrong in order else None if None in order else True
    if None in order or len(spans) < 3 or any(_left_of(a, b) is None for a, b in itertools.combinations(others, 2)):
        return None
    if value == "middle":
        away = max(abs(end - middle) for end in own)
        nearest = all(min(abs(low - middle), abs(high - middle)) > away for low, high in others)  # "middle" may also be the picture's
        if len(spans) == 3 and nearest == (sum(order) == 1):
            return nearest
        return None
    return sum(order) == (1 if value.endswith("left") else len(others) - 1)


_TRUTHS: dict[str, Callable[[Scene, int, str], Truth]] = {
    "shirt": lambda scene, index, value: scene.people[index].outfit.shirt == value,
    "lower": lambda scene, index, value: scene.people[index].outfit.lower == value,
    "hair": _hair, "posture": _posture, "arm": _arm, "size": _size, "place": _place,
}
# Every word of every sentence, split at spaces and hyphens.
VOCABULARY = tuple(sorted({
    word
    for text in (
        *NOUNS, *BARE, "who is the", "an", "and", *CLOTHES, *HAIR, *itertools.chain(*GARMENTS.values()),
        *itertools.chain(*BEFORE.values(), *AFTER.values(), *CLAUSES.values()),
    )
    for word in text.replace("{noun}", "").replace("{}", "").replace("-", " ").split()
}))
