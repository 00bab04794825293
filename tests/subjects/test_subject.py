"""Subjects: the seam between what is measured and how; the whole model as one."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

from humar_bench.args import Keywords, ModelArgs, RunArgs, WholeWorkload, Workload, read_workload
from humar_bench.devices.device import CpuDevice
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.measures.agreement import Parts, agree
from humar_bench.measures.counters import cross_check
from humar_bench.measures.dead_weight import find_dead_weight
from humar_bench.measures.flops import count_flops
from humar_bench.measures.memory import measure_memory
from humar_bench.measures.params import count_parameters
from humar_bench.records.record import Record, plain
from humar_bench.running.bench import benchmark
from humar_bench.running.new_inputs import NewInputs
from humar_bench.running.task import Task
from humar_bench.subjects.registry import parse_architecture
from humar_bench.subjects.subject import NotFiniteOutputs, subject_of
from humar_bench.subjects.transformer import TransformerSubject
from humar_bench.subjects.uniphd import UniphdSubject
from tests.uniphd import encoder_forms
from tests.uniphd.whole_forms import whole

SMALL = {"backbone": "mobilevit_xxs", "text_encoder": "tinybert", "image_size": (60, 90), "num_queries": 4, "batch": 2, "padded": True}


@pytest.fixture
def small_args() -> ModelArgs:
    """As few and as thin layers as the whole model takes."""
    return ModelArgs(
        hidden_dim=32, nheads=4, dim_feedforward=48, enc_layers=1, dec_layers=2, num_queries=4, num_body_points=6, efficient_nheads=2,
        efficient_enc_layers=2,
    )


def built(args, workload, architecture="efficient", device="meta"):
    subject = subject_of(args, workload)
    model = subject.build(parse_architecture(architecture), device=device, dtype=torch.float32, seed=0)
    return subject, model, subject.inputs(device=device, dtype=torch.float32, seed=0)


# The seam -------------------------------------------------------------------------------------------------------------------------


def test_a_workload_says_of_which_subject_it_is():
    assert type(subject_of(ModelArgs(), Workload())) is TransformerSubject
    assert type(subject_of(ModelArgs(), WholeWorkload())) is UniphdSubject


@pytest.mark.parametrize("workload", [Workload.tiny(), WholeWorkload(image_size=(100, 150), prompt="point", padded=True)])
def test_a_workload_survives_its_record(workload):
    assert read_workload(json.loads(json.dumps(plain(dataclasses.asdict(workload))))) == workload


def test_a_record_of_the_transformer_says_nothing_of_subjects():
    assert "subject" not in dataclasses.asdict(Workload())
    assert dataclasses.asdict(WholeWorkload())["subject"] == "uniphd"


def test_records_of_two_backbones_are_of_two_measurements():
    def key(workload):
        return Record("params", "efficient", "efficient", False, {}, dataclasses.asdict(workload), {}, measured={}).key

    assert key(WholeWorkload()) != key(WholeWorkload(backbone="mobilevit_s"))


def test_inputs_go_by_name_too():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.other = nn.Linear(3, 5), nn.Linear(7, 2)

        def forward(self, x, *, scale, more=None):
            return self.own(x) * scale, self.other(more)

    model = Named().eval()
    inputs = (torch.randn(4, 3), Keywords(scale=torch.ones(4, 1), more=torch.randn(6, 7)))
    flops = 2 * (4 * 3 * 5 + 6 * 7 * 2)
    count = count_flops(model, inputs)
    assert count.matmul_flops == flops
    assert find_dead_weight(model, inputs).never_read == ()
    assert cross_check(model, inputs, "flop_counter", count=count).ratio == 1
    found = measure_memory(lambda: Named().eval(), lambda: inputs, CpuDevice())
    assert found.inputs_bytes == 4 * (4 * 3 + 4 * 1 + 6 * 7), "what is given by name is an input too"
    assert found.difference_bytes == 0


# The whole model ------------------------------------------------------------------------------------------------------------------

CHANNELS = {"mobilevit_xxs": (24, 48, 64, 80), "segformer_mit_b0": (32, 64, 160, 256)}  # of the published table
WIDE = {"tinybert": 312}


@pytest.mark.parametrize(("architecture", "levels", "given"), [
    ("original", 4, {**SMALL, "masks": "all"}),
    ("efficient", 3, {**SMALL, "prompt": "scribble", "masks": "best"}),
    ("efficient", 5, {**SMALL, "backbone": "segformer_mit_b0", "prompt": "point", "masks": "none"}),
])
def test_flops_between_backbone_and_masks_are_the_closed_form_to_0(small_args, architecture, levels, given):
    args = dataclasses.replace(small_args, num_feature_levels=levels)
    workload = WholeWorkload(**given, feature_sizes=((1, 1),) * levels, caption_tokens=7)
    _, model, inputs = built(args, workload, architecture)
    count = count_flops(model, inputs, strict=True)
    form = whole(
        dataclasses.asdict(args), architecture, batch=2, queries=4, padded=(64, 96), channels=CHANNELS[workload.backbone],
        text=WIDE[workload.text_encoder], prompt=workload.prompt, tokens=7, masks=workload.masks,
    )
    found = {name: each["matmul_flops"] for name, each in count.components.items()}
    around = {"backbone", "text encoder"}
    assert {name: flops for name, flops in found.items() if flops and name not in around} == {k: v for k, v in form.items() if v}
    if workload.prompt == "text":
        assert found["text encoder"] == encoder_forms.bert(2, 7, width=312, hidden=1200, layers=4, pooler=True)
    assert count.batch == 2 and count.synchronisations == 0


def test_published_variant_has_its_parameters():
    args, workload = ModelArgs(), WholeWorkload(batch=1)
    _, model, _ = built(args, workload, "original")
    count = count_parameters(model)
    assert count.total == 184_031_828
    parts = {
        "backbone": 27_520_698, "text encoder": 124_645_632, "prompt": 394_752 + 165_376, "fusion": 2 * 263_168, "projection": 2_116_608,
        "heads": 1_591_344 + 1_542, "mask head": 1_266_496 + 50_752,
    }
    assert {name: count.components[name] for name in parts} == parts
    inside = sum(each for name, each in count.components.items() if name.startswith("transformer: "))
    assert inside == 184_031_828 - sum(parts.values())


def test_memory_is_predicted_to_the_byte(small_args):
    workload = WholeWorkload(**SMALL, masks="best")
    subject = subject_of(small_args, workload)
    architecture = parse_architecture("efficient")
    found = measure_memory(
        lambda: subject.build(architecture, device="cpu", dtype=torch.float32, seed=0),
        lambda: subject.inputs(device="cpu", dtype=torch.float32, seed=0), CpuDevice(),
        check=lambda outputs: subject.check(outputs, name="efficient"),
    )
    assert found.predicted_bytes > 0 and found.difference_bytes == 0
    assert found.inputs_bytes == 4 * 2 * 3 * 64 * 96 + 2 * 64 * 96 + 2 * (8 * 2 * 12) + 8 * 2 * 2


def test_one_seed_gives_one_model_and_one_input(small_args):
    workload = WholeWorkload(**SMALL, prompt="scribble", masks="best")
    one, other = (built(small_args, workload, device="cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one[1].state_dict().values(), other[1].state_dict().values(), strict=True))
    assert torch.equal(one[2].images, other[2].images) and torch.equal(one[2].prompt.points, other[2].prompt.points)
    assert not torch.equal(one[2].images, one[0].inputs(device="cpu", dtype=torch.float32, seed=1).images)
    assert one[2].sizes.tolist() == [[60, 90], [45, 54]]
    assert bool(one[2].padding[1, 45:].all()) and not bool(one[2].padding[0, :60, :90].any())
    assert bool((one[2].prompt.points <= one[2].sizes.flip(-1)[:, None]).all())


def test_outputs_are_held_against_what_they_must_be(small_args):
    workload = WholeWorkload(**SMALL, masks="best")
    subject, model, inputs = built(small_args, workload, device="cpu")
    with torch.inference_mode():
        outputs = model(*inputs)
    subject.check(outputs, name="x")
    with pytest.raises(MeasurementError, match=r"x returned pred_boxes of shape \[2, 3, 4\]; it must be a tensor of shape \[2, 4, 4\]"):
        subject.check(outputs._replace(pred_boxes=outputs.pred_boxes[:, :3]), name="x")
    with pytest.raises(MeasurementError, match="x returned pred_masks as a NoneType"):
        subject.check(outputs._replace(pred_masks=None), name="x")
    with pytest.raises(NotFiniteOutputs, match="pred_masks with 1 of"):
        broken = outputs.pred_masks.clone()
        broken.view(-1)[5] = torch.nan
        subject.check(outputs._replace(pred_masks=broken), name="x")
    with pytest.raises(MeasurementError, match="x returned 0 layers in aux_outputs; it must be 1"):
        subject.check(outputs._replace(aux_outputs=[]), name="x")
    with pytest.raises(MeasurementError, match="x returned a list; the whole model"):
        subject.check([1], name="x")


def test_a_request_of_the_whole_model_is_read_as_one(small_args):
    task = Task.read({
        "measure": "params", "architectures": [], "asked": dataclasses.asdict(small_args), "run": dataclasses.asdict(RunArgs(device="cpu")),
        "workload": plain(dataclasses.asdict(WholeWorkload(**SMALL))),
    })
    model = task.model(parse_architecture("original"), "meta")
    assert type(model).__name__ == "UniPHD"
    assert task.inputs("meta").images.shape == (2, 3, 64, 96)


@pytest.mark.parametrize(("given", "says"), [
    ({"backbone": "resnet"}, "backbone is 'resnet'; choose one of swin_T_224_1k"),
    ({"caption_tokens": 0}, "caption_tokens is 0; it must be at least 1"),
    ({"caption_tokens": 513}, "caption_tokens is 513; the text encoders take at most 512"),
    ({"prompt": "box"}, "prompt is 'box'; choose one of text"),
    ({"feature_sizes": ((1, 1),) * 2}, "num_feature_levels is 2; the whole model has at least 3"),
    ({"image_size": (16, 16)}, "num_queries 20 is more than the 7 memory tokens"),
])
def test_what_cannot_be_is_one_sentence(given, says):
    with pytest.raises(UsageError, match=says):
        WholeWorkload(**given)


# Its speed ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_forwards():
    """The subject, and what one forward gives on two inputs; masks of the best query alone."""
    args = ModelArgs(
        hidden_dim=32, nheads=4, dim_feedforward=48, enc_layers=1, dec_layers=2, num_queries=4, num_body_points=6, efficient_nheads=2,
        efficient_enc_layers=2,
    )
    subject, model, inputs = built(args, WholeWorkload(**SMALL, masks="best"), device="cpu")
    with torch.inference_mode():
        return subject, model(*inputs), model(*subject.inputs(device="cpu", dtype=torch.float32, seed=1))


def held(subject, got, want):
    return agree(got, want, "float32", parts=lambda outputs: Parts(**subject.parts(outputs)))


def test_a_forward_agrees_with_itself_and_not_with_one_of_other_inputs(two_forwards):
    subject, one, other = two_forwards
    found = held(subject, one, one)
    assert not found.fault and found.max_error == 0 and found.common_share == 1
    assert held(subject, other, one).fault


@pytest.mark.parametrize("part", ["pred_logits", "pred_boxes", "pred_keypoints", "pred_keypoints_visi", "pred_masks"])
def test_a_part_that_is_off_is_named(two_forwards, part):
    subject, one, _ = two_forwards
    broken = one._replace(**{part: getattr(one, part) * 1.1})
    assert held(subject, broken, one).fault.startswith(f"{part} is off by")


def test_an_earlier_layer_that_is_off_is_named(two_forwards):
    subject, one, _ = two_forwards
    layer = one.aux_outputs[0]._replace(pred_boxes=one.aux_outputs[0].pred_boxes + 0.2)
    assert held(subject, one._replace(aux_outputs=[layer]), one).fault.startswith("aux_outputs[0].pred_boxes is off by")


def test_masks_of_other_queries_are_not_held_against_each_other(two_forwards):
    subject, one, _ = two_forwards
    assert not held(subject, one._replace(pred_masks=-one.pred_masks, mask_queries=(one.mask_queries + 1) % 4), one).fault


def test_unseen_inputs_are_other_inputs(two_forwards):
    subject, *_ = two_forwards
    for prompt in ("text", "scribble"):
        subject = subject_of(subject.args, dataclasses.replace(subject.workload, prompt=prompt))
        new = NewInputs(lambda other, subject=subject: subject.inputs(device="cpu", dtype=torch.float32, seed=other), subject.renewed)
        first = copy.deepcopy(new.current)
        new.renew()
        new.renew()
        assert not torch.equal(new.current.images, first.images) and not torch.equal(new.current.prompt[0], first.prompt[0])
        assert new.current.images.shape == first.images.shape


def test_the_whole_model_is_timed_and_its_outputs_are_checked(in_process, small_args):
    workload = WholeWorkload(**SMALL, masks="best")
    run = RunArgs(device="cpu", processes=1, budget=0.2, min_runs=2, max_runs=4, threads=1, control=False)
    [record] = benchmark(["efficient"], small_args, workload, measures=["fps"], run=run)
    assert record.ok, record.reason
    assert record.measured["agreement"]["checked"] == "after" and record.measured["agreement"]["same_selection"]
    assert record.workload["subject"] == "uniphd" and len(record.measured["wall_s"]) >= 2
