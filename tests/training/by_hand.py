"""The page's formulas pair by pair in Python floats: slow, plain, and written without looking at the tensors' code."""

from __future__ import annotations

import itertools
import math

TENTHS = {
    17: [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89],
    14: [0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89, 0.79, 0.79],
    3: [1.07, 1.07, 0.67],
}
WEIGHTS = {"class": 2, "bbox": 5, "giou": 2, "keypoints": 10, "visi": 4, "oks": 4}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(logit: float, wanted: float) -> float:
    return -wanted * math.log(sigmoid(logit)) - (1 - wanted) * math.log(1 - sigmoid(logit))


def focal(logit: float, wanted: int) -> float:
    p = sigmoid(logit) if wanted else 1 - sigmoid(logit)
    return -(0.25 if wanted else 0.75) * (1 - p) ** 2 * math.log(p)


def oks(found: list, truth: list, area: float) -> float:
    number = len(truth) // 3
    visible, total = truth[2 * number :], 0.0
    for k, tenth in enumerate(TENTHS[number]):
        dx, dy = found[2 * k] - truth[2 * k], found[2 * k + 1] - truth[2 * k + 1]
        total += visible[k] * math.exp(-(dx**2 + dy**2) / (2 * area * (2 * tenth / 10) ** 2))
    return max(1e-6, total / (sum(visible) + 1e-6))


def distance(found: list, truth: list) -> float:
    number = len(truth) // 3
    return sum(
        truth[2 * number + k] * (abs(found[2 * k] - truth[2 * k]) + abs(found[2 * k + 1] - truth[2 * k + 1])) for k in range(number)
    )


def giou(a: list, b: list) -> float:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a, b)
    )
    inside = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inside
    around = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return inside / (union + 1e-6) - (around - union) / (around + 1e-6)


def costs(output: dict, b: int, q: int, target: dict, j: int) -> dict[str, float]:
    """Unweighted costs of one query with one person."""
    p = sigmoid(output["pred_logits"][b, q, target["labels"][j]].item())
    found, truth = output["pred_keypoints"][b, q].tolist(), target["keypoints"][j].tolist()
    out = {
        "class": 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8) - 0.75 * p**2 * -math.log(1 - p + 1e-8),
        "keypoints": distance(found, truth),
        "oks": 1 - oks(found, truth, target["area"][j].item()),
    }
    if "pred_boxes" in output:
        box, box_truth = output["pred_boxes"][b, q].tolist(), target["boxes"][j].tolist()
        out["bbox"] = sum(abs(x - y) for x, y in zip(box, box_truth, strict=True))
        out["giou"] = -giou(box, box_truth)
        logits, visible = output["pred_keypoints_visi"][b, q].tolist(), truth[len(truth) * 2 // 3 :]
        out["visi"] = sum(bce(x, v) for x, v in zip(logits, visible, strict=True))
    return out


def assignment(output: dict, b: int, target: dict) -> list[tuple[int, int]]:
    """The cheapest pairs (query, person) of one picture, by trying them all."""
    queries, people = output["pred_logits"].shape[1], len(target["labels"])
    total = [
        [sum(WEIGHTS[name] * cost for name, cost in costs(output, b, q, target, j).items()) for j in range(people)] for q in range(queries)
    ]
    if people <= queries:
        tries = (sorted(zip(chosen, range(people), strict=True)) for chosen in itertools.permutations(range(queries), people))
    else:
        tries = (list(zip(range(queries), chosen, strict=True)) for chosen in itertools.permutations(range(people), queries))
    return min(tries, key=lambda pairs: sum(total[q][j] for q, j in pairs))


def losses(output: dict, targets: list[dict]) -> dict[str, float]:
    """Unweighted losses of one layer, with masks where it has them."""
    pairs = [(b, q, target, j) for b, target in enumerate(targets) for q, j in assignment(output, b, target)]
    n = max(sum(len(target["labels"]) for target in targets), 1)
    positive = {(b, q, target["labels"][j].item()) for b, q, target, j in pairs}
    logits = output["pred_logits"]
    out = {
        "loss_ce": sum(focal(logits[at].item(), at in positive) for at in itertools.product(*map(range, logits.shape))),
        "loss_keypoints": sum(costs(output, *pair)["keypoints"] for pair in pairs),
        "loss_oks": sum(costs(output, *pair)["oks"] for pair in pairs),
    }
    if "pred_boxes" in output:
        number = output["pred_keypoints_visi"].shape[-1]
        out["loss_bbox"] = sum(costs(output, *pair)["bbox"] for pair in pairs)
        out["loss_giou"] = sum(1 + costs(output, *pair)["giou"] for pair in pairs)
        out["loss_keypoints_visi"] = sum(costs(output, *pair)["visi"] for pair in pairs) / max(number * len(pairs), 1)
    if "pred_masks" in output:
        out["loss_mask"] = out["loss_dice"] = 0.0
        for b, q, target, j in pairs:
            logits = output["pred_masks"][b, q].tolist()
            truth = target["masks"][j].tolist()
            wanted = [
                [int(y < len(truth) and x < len(truth[0]) and truth[y][x]) for x in range(len(row))] for y, row in enumerate(logits)
            ]
            pixels = [(x, t) for row, line in zip(logits, wanted, strict=True) for x, t in zip(row, line, strict=True)]
            out["loss_mask"] += sum(focal(x, t) for x, t in pixels) / len(pixels)
            shared = sum(sigmoid(x) * t for x, t in pixels)
            out["loss_dice"] += 1 - (2 * shared + 1) / (sum(sigmoid(x) for x, _ in pixels) + sum(t for _, t in pixels) + 1)
    return {name: value / n for name, value in out.items()}
