"""Losses on what the golden files do not have: other keypoints, empty pictures, crowds, proposals, several processes."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, multiprocessing
from torch.utils._python_dispatch import TorchDispatchMode

from humar_bench.data.targets import TargetBatch
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.training.losses import Criterion
from humar_bench.training.options import LossArgs
from tests.tolerance import tolerance
from tests.training import by_hand, golden, recipe

PUBLISHED = LossArgs(interm=False)
EXACT = tolerance(torch.float64, scale=1.0, terms=1000)  # outputs and targets are float64 here; a loss adds up some thousand numbers
CASES = {
    "14 keypoints, a picture without people": (3, [2, 0, 1], 4, 14, [(20, 14), (17, 30), (32, 9)]),
    "more people than queries": (40, [4, 1], 2, 17, [(16, 12), (10, 16)]),
    "3 keypoints, one class only of three": (70, [1, 3], 5, 3, [(9, 16), (16, 16)]),
    "nobody": (90, [0, 0], 3, 17, [(16, 16), (12, 9)]),
}


def make(seed, people, queries, keypoints, sizes, classes=2, layers=2):
    outputs, targets = golden.inputs(seed, people, queries, keypoints, classes, sizes, layers, edge=False)
    proposals = recipe.predictions(seed + 900, len(people), queries, keypoints, 1, 1, classes)
    interm = {"pred_logits": proposals["pred_logits"], "pred_keypoints": proposals["pred_keypoints"][..., : 2 * keypoints]}
    interm = {name: each.requires_grad_() for name, each in recipe.in_type(interm).items()}
    return golden.as_model(outputs) | {"interm_outputs": interm}, targets


@pytest.mark.parametrize("name", CASES)
def test_every_loss_equals_the_formulas_pair_by_pair(name):
    outputs, targets = make(*CASES[name], classes=3 if "three" in name else 2)
    losses = Criterion()(outputs, targets)
    wanted = by_hand.losses(outputs, targets)
    wanted |= {f"{key}_0": value for key, value in by_hand.losses(outputs["aux_outputs"][0], targets).items()}
    wanted |= {f"{key}_interm": value for key, value in by_hand.losses(outputs["interm_outputs"], targets).items()}
    assert set(wanted) == {key for key in losses.named if key.startswith("loss")}
    for key, value in wanted.items():
        assert losses.named[key].item() == pytest.approx(value, rel=EXACT, abs=EXACT), key
    assert losses.total.item() == pytest.approx(sum(Criterion().weight_of(key) * value for key, value in wanted.items()), rel=EXACT)


@pytest.mark.parametrize("name", CASES)
def test_every_output_gets_a_finite_gradient(name):
    """Also without people, so that no process of several waits for a gradient that never comes."""
    outputs, targets = make(*CASES[name])
    Criterion()(outputs, targets).total.backward()
    layers = [outputs, *outputs["aux_outputs"], outputs["interm_outputs"]]
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, torch.Tensor):
                assert value.grad is not None and value.grad.isfinite().all(), key
    assert outputs["interm_outputs"]["pred_logits"].grad.abs().sum() > 0


def test_costs_are_logged_as_published_or_of_the_matched_person():
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])
    flat = [(target, j) for target in targets for j in range(len(target["labels"]))]
    for args in (LossArgs(), LossArgs(costs_logged_as_published=False)):
        named = Criterion(args)(outputs, targets).named
        for name in ("class", "bbox", "giou", "keypoints", "oks"):
            pictures = []
            for b, target in enumerate(targets):
                pairs = by_hand.assignment(outputs, b, target)
                looked_at = [(q, *(flat[j] if args.costs_logged_as_published else (target, j))) for q, j in pairs]
                pictures += [sum(by_hand.costs(outputs, b, *each)[name] for each in looked_at) / len(pairs)] if pairs else []
            assert named[f"set_cost_{name}"].item() == pytest.approx(sum(pictures) / len(pictures), rel=EXACT), name


def test_visibility_is_divided_twice_unless_asked_otherwise():
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])
    twice = Criterion()(outputs, targets).named["loss_keypoints_visi"]
    once = Criterion(LossArgs(visibility_divided_twice=False))(outputs, targets).named["loss_keypoints_visi"]
    assert once.item() == pytest.approx(3 * twice.item(), rel=EXACT)


def test_without_visibilities_masks_and_proposals_those_losses_are_left_out():
    outputs, targets = make(*CASES["more people than queries"])
    outputs["pred_keypoints_visi"] = outputs["aux_outputs"][0]["pred_keypoints_visi"] = 0
    del outputs["pred_masks"], outputs["interm_outputs"]
    named = Criterion(LossArgs(interm=False, masks=False))(outputs, [target | {"masks": None} for target in targets]).named
    assert not {"loss_keypoints_visi", "loss_mask", "loss_dice", "loss_ce_interm"} & set(named)


def test_masks_made_after_matching_give_the_same_losses():
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])
    criterion = Criterion()
    matches = criterion.match(outputs, targets)
    masks = outputs["pred_masks"][matches.layers.picture, matches.layers.query[-1]]
    without = {key: value for key, value in outputs.items() if key != "pred_masks"}
    after, before = criterion(without, targets, matches=matches, masks=masks), criterion(outputs, targets)
    assert torch.equal(after.total, before.total) and {*after.named} == {*before.named}


def test_masks_of_another_size_meet_resized_targets():
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])

    def double(masks):
        return masks.repeat_interleave(2, -1).repeat_interleave(2, -2)

    outputs["pred_masks"] = double(outputs["pred_masks"])
    wanted = by_hand.losses(outputs, [target | {"masks": double(target["masks"])} for target in targets])
    named = Criterion()(outputs, targets).named
    for name in ("loss_mask", "loss_dice"):
        assert named[name].item() == pytest.approx(wanted[name], rel=EXACT)


def test_masks_of_another_size_without_people():
    outputs, targets = make(*CASES["nobody"])
    outputs["pred_masks"] = outputs["pred_masks"].repeat_interleave(2, -1)
    assert Criterion()(outputs, targets).named["loss_dice"] == 0


def test_half_precision_outputs_and_autocast_are_computed_in_float32():
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])

    def halved(value):
        if isinstance(value, dict):
            return {key: halved(each) for key, each in value.items()}
        return [halved(each) for each in value] if isinstance(value, list) else value.to(torch.bfloat16)

    exact = Criterion()(outputs, targets).total.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = Criterion()(halved(outputs), [recipe.in_type(each, torch.float32) for each in targets])
    assert losses.total.dtype == torch.float32
    assert losses.total.item() == pytest.approx(exact, rel=tolerance(torch.bfloat16, scale=1.0))


class NoWaiting(TorchDispatchMode):
    """Refuses operators that make the host wait for a device: their result's shape or value is needed on the host."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "bincount")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(self.WAITING), f"{name} waits for the device."
        if name.startswith("index"):
            indices = [each for arg in args if isinstance(arg, (list, tuple)) for each in arg if isinstance(each, torch.Tensor)]
            assert all(each.dtype != torch.bool for each in indices), "an index by a mask waits for the device."
        return func(*args, **(kwargs or {}))


def test_the_host_waits_for_the_device_once(monkeypatch):
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])
    batch = TargetBatch.collate(targets)
    copies = []
    copy = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or copy(tensor))
    with NoWaiting():
        Criterion()(outputs, batch).total.backward()
    assert len(copies) == 1
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        outputs["pred_logits"].detach().sum().item()
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        batch.area[batch.area > 0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_waits_for_a_cuda_device_once():
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])

    def moved(value):
        if isinstance(value, dict):
            return {key: moved(each) for key, each in value.items()}
        return [moved(each) for each in value] if isinstance(value, list) else value.detach().cuda().requires_grad_()

    outputs, batch = moved(outputs), TargetBatch.collate(targets).to("cuda")
    wanted = Criterion()(outputs, batch).total.item()  # also makes what is kept for later calls
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as found:
            total = Criterion()(outputs, batch).total
            total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(found) == 1 and total.item() == pytest.approx(wanted, rel=1e-5)


def test_what_does_not_fit_is_said_in_one_sentence():
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])
    for change, args, sentence in (
        ({"interm_outputs": None}, LossArgs(), "no interm_outputs to train the proposals with; let the model give them"),
        ({"pred_masks": None}, PUBLISHED, "the outputs have no masks to train with; set masks false"),
        ({"aux_outputs": [], "pred_logits": outputs["pred_logits"][..., :1]}, PUBLISHED, "label 1, but num_classes is 1"),
    ):
        with pytest.raises(UsageError, match=sentence):
            Criterion(args)(outputs | change, targets)
    with pytest.raises(UsageError, match="the outputs have 3 pictures and the targets 2"):
        Criterion()(outputs, targets[:2])
    with pytest.raises(UsageError, match="the targets have no masks"):
        Criterion()(outputs, [target | {"masks": None} for target in targets])
    other, _ = make(*CASES["nobody"])
    with pytest.raises(UsageError, match="the outputs have 17 keypoints and the targets 14"):
        Criterion()(other, targets[:2])
    five, people = make(5, [1], 2, 5, [(16, 16)])
    with pytest.raises(UsageError, match="no OKS for 5 keypoints; choose one of 3, 14, 17"):
        Criterion()(five, people)


def test_a_diverged_model_is_one_sentence():
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])
    with torch.no_grad():
        outputs["aux_outputs"][0]["pred_boxes"][2, 1, 0] = float("nan")
    with pytest.raises(MeasurementError, match="picture 2 of the batch has a matching cost that is not finite in layer 0"):
        Criterion()(outputs, targets)


def _share(rank: int, folder: str, results) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])
    mine = [[0], [1, 2]][rank]

    def part(value):
        if isinstance(value, dict):
            return {key: part(each) for key, each in value.items()}
        return [part(each) for each in value] if isinstance(value, list) else value.detach()[mine]

    results.put((rank, Criterion()(part(outputs), [targets[b] for b in mine]).named["loss_bbox"].item()))
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_divide_by_the_mean_number_of_people(tmp_path):
    """Two people in one process, one in the other: the mean of the two losses is that of the whole batch."""
    results = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(_share, (str(tmp_path), results), nprocs=2)
    found = dict(results.get() for _ in range(2))
    outputs, targets = make(*CASES["14 keypoints, a picture without people"])
    assert sum(found.values()) / 2 == pytest.approx(Criterion()(outputs, targets).named["loss_bbox"].item(), rel=EXACT)


def test_weights_of_names():
    criterion = Criterion(LossArgs(interm_loss_coef=0.5))
    names = {"loss_keypoints": 10, "loss_keypoints_visi": 4, "loss_keypoints_3": 10, "loss_oks_interm": 2, "set_cost_oks": 0}
    assert {name: criterion.weight_of(name) for name in names} == names
