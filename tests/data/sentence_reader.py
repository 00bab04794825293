"""Reads a sentence about people and says whom it fits, from what can be seen: where keypoints are, which colours are painted.

Written apart from what makes the sentences: it knows no attributes, outfits by name or poses, and it knows every word or fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from humar_bench.data.keypoints import INDEX
from humar_bench.data.scenes import Person, Scene

PAINTS = {  # what people call these colours
    "red": (205, 40, 45), "orange": (240, 135, 30), "yellow": (245, 215, 55), "green": (45, 150, 70), "blue": (45, 85, 200),
    "purple": (130, 60, 170), "pink": (245, 150, 185), "white": (238, 238, 235), "grey": (135, 137, 142), "black": (38, 38, 44),
    "brown": (115, 72, 42),
}
HAIR_PAINTS = {
    "black": (30, 25, 25), "brown": (100, 62, 35), "blond": (226, 180, 72), "red": (185, 80, 30), "white": (228, 228, 230),
}
COLOUR = r"(?P<colour>\w+)"
NOT_SAID = {"the", "person", "one", "figure", "human", "who", "is", "and", "with", "in", "wearing"}


def nearest_name(colour: tuple[float, ...], paints: dict[str, tuple[int, int, int]]) -> str:
    return min(paints, key=lambda name: sum((a - b) ** 2 for a, b in zip(colour, paints[name], strict=True)))


def middle(person: Person) -> float:
    xs = [x for x, _ in person.keypoints]
    return sum(xs) / len(xs)


def point(person: Person, name: str) -> tuple[float, float]:
    return person.keypoints[INDEX[name]]


def has_an_arm_up(person: Person) -> bool:
    return any(point(person, f"{side}_wrist")[1] < point(person, "nose")[1] for side in ("left", "right"))


def sits(person: Person) -> bool:
    """Somebody whose hips are hardly above the knees, in body heights."""
    hips, knees = (sum(point(person, f"{side}_{name}")[1] for side in ("left", "right")) / 2 for name in ("hip", "knee"))
    return knees - hips < 0.16 * person.scale


def height(person: Person) -> float:
    ys = [y for _, y in person.keypoints]
    return max(ys) - min(ys)


def shirt(word: str) -> Callable[[Person], bool]:
    return lambda person: nearest_name(person.outfit.shirt_colour, PAINTS) == word


def lower(word: str) -> Callable[[Person], bool]:
    return lambda person: nearest_name(person.outfit.lower_colour, PAINTS) == word


def hair(word: str) -> Callable[[Person], bool]:
    return lambda person: person.outfit.hat is not None or nearest_name(person.outfit.hair_colour, HAIR_PAINTS) == word  # a hat may hide it


# Phrase -> what a person has to be; longer phrases first.
SAID: list[tuple[str, Callable[[str], Callable[[Person], bool]]]] = [
    (rf"whose shirt is {COLOUR}|who has an? {COLOUR} shirt on".replace("?P<colour>", "", 1), shirt),
    (rf"(?:dressed )?(?:in|with|wearing)? ?(?:an?|the) {COLOUR} (?:shirt|top)", shirt),
    (rf"(?:an? )?{COLOUR} (?:trousers|pants|shorts|skirt)", lower),
    (rf"whose hair is {COLOUR}", hair), (rf"{COLOUR} hair", hair), (rf"{COLOUR}-haired", hair),
    (r"(?:who is )?(?:sitting down|sitting on a box|sitting|seated)", lambda _: sits),
    (r"(?:who is )?(?:standing up|standing|on their feet)", lambda _: lambda person: not sits(person)),
    (
        r"raising an arm|with an arm raised|with a hand up|holding an arm up|who has an arm in the air|who holds a hand up",
        lambda _: has_an_arm_up,
    ),
]
# Phrase -> people, scene -> those it picks out.
PLACES: list[tuple[str, Callable[[list[Person], Scene], list[Person]]]] = [
    (r"second from the left", lambda people, _: sorted(people, key=middle)[1:2]),
    (r"second from the right", lambda people, _: sorted(people, key=middle)[-2:-1]),
    (r"farthest to the left|on the far left|leftmost", lambda people, _: [min(people, key=middle)]),
    (r"farthest to the right|on the far right|rightmost", lambda people, _: [max(people, key=middle)]),
    (r"on the left side|on the left|to the left|left-hand", lambda people, scene: [p for p in people if middle(p) < scene.aspect / 2]),
    (r"on the right side|on the right|to the right|right-hand", lambda people, scene: [p for p in people if middle(p) > scene.aspect / 2]),
    (r"between the two others", lambda people, _: sorted(people, key=middle)[1:2] if len(people) == 3 else people),
    (r"in the middle|in the centre|middle", lambda people, scene: [min(people, key=lambda p: abs(middle(p) - scene.aspect / 2))]),
    (r"(?:who is the )?(?:biggest|largest|tallest)", lambda people, _: [max(people, key=height)]),
    (r"(?:who is the )?(?:smallest|littlest|shortest)", lambda people, _: [min(people, key=height)]),
]


def whom(sentence: str, scene: Scene) -> tuple[list[int], list[int]]:
    """Numbers of the people it fits, when places are among all people, and when they are among those the other words leave."""
    rest, tests, places = sentence, [], []
    for pattern, make in SAID:
        while match := re.search(rf"\b(?:{pattern})\b", rest):
            word = next((each for each in match.groups() if each), "")
            tests.append(make(word))
            rest = f"{rest[:match.start()]} {rest[match.end():]}"
    for pattern, pick in PLACES:
        while match := re.search(rf"\b(?:{pattern})(?!\w)", rest):
            places.append(pick)
            rest = f"{rest[:match.start()]} {rest[match.end():]}"
    unread = set(rest.split()) - NOT_SAID
    assert not unread, f"{sentence!r}: {unread} cannot be read."
    people = list(scene.people)
    left = [person for person in people if all(test(person) for test in tests)]
    among_all, among_left = left, left
    for pick in places:
        among_all = [person for person in among_all if person in pick(people, scene)]
        among_left = [person for person in pick(among_left, scene) if person in among_left] if among_left else []
    return [people.index(person) for person in among_all], [people.index(person) for person in among_left]
