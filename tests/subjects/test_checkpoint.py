"""Published checkpoints: whatever wrapped them, their transformer's entries load; what could run code is refused."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import resource
import time
import zipfile

import pytest
import torch

import humar_bench
from baselines import build_transformer
from humar_bench.errors import UsageError
from humar_bench.subjects.checkpoint import load_into


class TouchesAFile:
    """What unpickling it would do, if anybody let it: make a file."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def model(tiny_args):
    return build_transformer(tiny_args)


@pytest.fixture
def entries(model) -> dict[str, torch.Tensor]:
    """The weights as an outer model that holds a backbone too would name them."""
    transformer = {f"transformer.{name}": torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    return {"backbone.0.weight": torch.zeros(3), **transformer, "transformer_of_another": torch.zeros(1)}


def wrappers(entries) -> dict[str, object]:
    return {
        "bare": entries,
        "a training script's": {"model": entries, "optimizer": {"state": {}}, "epoch": 3, "args": argparse.Namespace(lr=1e-4)},
        "lightning's": {"state_dict": entries, "epoch": 3},
        "of several processes": {"model": {f"module.{name}": tensor for name, tensor in entries.items()}},
        "wrapped twice": {"model": {"state_dict": entries}},
    }


@pytest.mark.parametrize("kind", ["bare", "a training script's", "lightning's", "of several processes", "wrapped twice"])
def test_the_transformers_entries_load_strictly_whatever_wraps_them(tmp_path, model, entries, kind):
    torch.save(wrappers(entries)[kind], tmp_path / "checkpoint.pth")
    loaded = humar_bench.load_checkpoint(tmp_path / "checkpoint.pth")
    model.load_state_dict(loaded, strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, entries[f"transformer.{name}"])


def test_another_prefix_takes_other_entries(tmp_path, entries):
    torch.save(entries, tmp_path / "checkpoint.pth")
    assert list(humar_bench.load_checkpoint(tmp_path / "checkpoint.pth", prefix="backbone.")) == ["0.weight"]


def test_loading_into_a_model_that_fits(tmp_path, model, entries):
    torch.save({"model": entries}, tmp_path / "checkpoint.pth")
    assert load_into(model, tmp_path / "checkpoint.pth") is model
    assert torch.equal(model.level_embed, entries["transformer.level_embed"])


def test_a_checkpoint_that_does_not_fit_is_refused_by_its_first_faults(tmp_path, model, entries):
    names = list(model.state_dict())
    for name in names[:5]:
        del entries[f"transformer.{name}"]
    entries["transformer.extra.weight"] = torch.zeros(2)
    entries[f"transformer.{names[7]}"] = torch.zeros(9, 9)
    torch.save({"model": entries}, tmp_path / "checkpoint.pth")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError) as found:
        load_into(model, tmp_path / "checkpoint.pth")
    said = str(found.value)
    assert f"lacks {', '.join(names[:3])} and 2 more" in said
    assert "has besides extra.weight" in said
    assert f"has {names[7]} [9, 9] instead of {list(before[names[7]].shape)}" in said
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("form", ["torch.save", "pickle", "pickle of protocol 2"])
def test_a_malicious_pickle_is_refused_and_nothing_in_it_is_run(tmp_path, form):
    made, path = tmp_path / "made_by_the_checkpoint", tmp_path / "checkpoint.pth"
    content = {"model": {"transformer.weight": torch.zeros(2) if form == "torch.save" else 0, "transformer.bias": TouchesAFile(made)}}
    if form == "torch.save":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2 if form.endswith("2") else 4))
    with pytest.raises(UsageError) as found:
        humar_bench.load_checkpoint(path)
    assert not made.exists()
    assert str(found.value).count("\n") == 0
    if form == "torch.save":
        assert "asks for more than tensors and plain containers (posix.mkdir) and was not loaded" in str(found.value)
    if form == "torch.save":  # the attack is real: without the restriction it runs
        torch.load(path, weights_only=False)
        assert made.exists()


def test_a_whole_model_instead_of_its_weights_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"\(torch\.nn\.modules\.linear\.Linear\) and was not loaded.*save only its state dict"):
        humar_bench.load_checkpoint(tmp_path / "model.pt")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UsageError, match="gone.pth does not exist; name a file that torch.save wrote"):
        humar_bench.load_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(UsageError, match="is not a file"):
        humar_bench.load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 and then nothing", b"\x80\x02}q\x00.", bytes(range(256))])
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"is not a checkpoint|holds no tensors|holds a"):
        humar_bench.load_checkpoint(path)


def test_a_checkpoint_cut_short_is_one_sentence(tmp_path, entries):
    torch.save({"model": entries}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "short.pth").write_bytes(content[: int(share * len(content))])
        with pytest.raises(UsageError, match="cut short; name one that is whole"):
            humar_bench.load_checkpoint(tmp_path / "short.pth")


def test_a_checkpoint_of_something_else_says_what_it_has(tmp_path):
    torch.save({"model": {"backbone.a": torch.zeros(1), "head.b": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"no entry that begins with 'transformer\.'; its entries begin with backbone, head\."):
        humar_bench.load_checkpoint(tmp_path / "other.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(UsageError, match="holds no tensors by name"):
        humar_bench.load_checkpoint(tmp_path / "epoch.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="holds a list"):
        humar_bench.load_checkpoint(tmp_path / "list.pth")


# What a checkpoint may hold besides what it should -----------------------------------------------------------------------------------


def refusal(path) -> str:
    with pytest.raises(UsageError) as found:
        humar_bench.load_checkpoint(path)
    assert str(found.value).count("\n") == 0 and len(str(found.value)) < 600
    return str(found.value)


def odd_tensors() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    base = torch.arange(100.0)
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    return {
        "meta": ({"transformer.a": torch.ones(2, device="meta")}, "without numbers .on the device meta. for a;"),
        "quantised": ({"transformer.a": quantised}, r"quantised tensor \(torch.qint8\) for a;"),
        "sparse": ({"transformer.a": torch.eye(3).to_sparse()}, "layout torch.sparse_coo for a;"),
        "expanded": ({"transformer.a": torch.ones(1).expand(1000, 1000)}, "whose elements share memory for a;"),
        "windows": ({"transformer.a": base.unfold(0, 10, 5)}, "whose elements share memory for a;"),
        "overlapping": ({"transformer.a": base[:60], "transformer.b": base[50:]}, "holds a and b in memory that overlaps;"),
    }


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["meta", "quantised", "sparse", "expanded", "windows", "overlapping"])
def test_a_tensor_that_is_no_plain_one_is_refused_by_its_name(tmp_path, kind, legacy):
    content, said = odd_tensors()[kind]
    torch.save(content, tmp_path / "odd.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UsageError, match=said):
        humar_bench.load_checkpoint(tmp_path / "odd.pth")


def test_tied_weights_slices_of_one_buffer_and_transposed_tensors_are_plain(tmp_path):
    base, tied = torch.arange(100.0), torch.ones(3)
    content = {"a": base[:50], "b": base[50:], "c": tied, "d": tied, "e": torch.ones(3, 4).t(), "f": torch.ones(4, 4)[:, ::2]}
    torch.save({f"transformer.{name}": value for name, value in content.items()}, tmp_path / "plain.pth")
    loaded = humar_bench.load_checkpoint(tmp_path / "plain.pth")
    assert all(torch.equal(loaded[name], value) for name, value in content.items())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_weights_of_another_kind_of_number_are_not_cast_without_a_word(tmp_path, model, entries, dtype):
    name = next(iter(model.state_dict()))
    entries[f"transformer.{name}"] = entries[f"transformer.{name}"].to(dtype)
    torch.save(entries, tmp_path / "checkpoint.pth")
    with pytest.raises(UsageError, match=f"it has {name} of {str(dtype).removeprefix('torch.')} instead of float32;"):
        load_into(model, tmp_path / "checkpoint.pth")
    entries[f"transformer.{name}"] = torch.randn(model.state_dict()[name].shape, dtype=torch.float64)  # a rounding is none
    torch.save(entries, tmp_path / "checkpoint.pth")
    load_into(model, tmp_path / "checkpoint.pth")


def test_nothing_is_loaded_into_a_model_that_has_no_numbers(tmp_path, tiny_args, entries):
    with torch.device("meta"):
        empty = build_transformer(tiny_args)
    torch.save(entries, tmp_path / "checkpoint.pth")
    with pytest.raises(UsageError, match="is on the device meta; load into a model with plain weights on a device"):
        load_into(empty, tmp_path / "checkpoint.pth")


def nested_tuples() -> tuple:
    found: tuple = ()
    for _ in range(60):
        found = (found, found)
    return found


@pytest.mark.parametrize(("content", "said"), [
    (b"\x80\x02" + b"(" * 10_000_000 + b".", "nested more than 1,000 levels deep"),
    (b"\x80\x02" + b"N0" * 10 + b".", "uses the pickle opcode POP"),
    (b"\x80\x02" + b"]q\x00" + b"h\x00" * 1_000_000 + b".", "takes more than 500,000 steps to read"),
    (b"\x80\x02)" + b"\x85" * 10_000 + b".", "a tuple of more than 1,000 values"),
    (b"\x80\x02}(" + b"K\x01\x85Nu.", "a dictionary whose keys are neither text nor 64-bit numbers"),
    (b"\x80\x02}(" + b"\x8a\x0a" + b"\x01" * 10 + b"Nu.", "a dictionary whose keys are neither text nor 64-bit numbers"),
    (b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + b"\x00" * 5 + b"\x01\x85R.", r"containers \(builtins.bytearray\) and was not loaded"),
    (b"\x80\x02ctorch\nTensor\n\x8a\x06" + b"\x00" * 5 + b"\x01\x85\x81.", r"containers \(torch.Tensor\) and was not loaded"),
    (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R.", "encodes something else than text"),
    (b"\x80\x02((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\xff\xff\xff\x7fNtQ.",
     "claims 2147483647 elements"),
])
def test_a_pickle_that_would_take_the_machine_down_is_refused_unread(tmp_path, content, said):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        humar_bench.load_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_dictionaries_that_contain_themselves_and_tuples_that_double_are_read_or_refused_at_once(tmp_path, entries, legacy):
    itself: dict = {}
    itself["model"] = itself
    for name, content in {"itself": itself, "doubling": {"model": entries, "key": nested_tuples()}}.items():
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        assert ("holds no tensors by name" if name == "itself" else "tuple of more than 1,000 values") in refusal(tmp_path / name)
    entries["model"] = entries
    torch.save(entries, tmp_path / "weights", _use_new_zipfile_serialization=not legacy)
    assert humar_bench.load_checkpoint(tmp_path / "weights")


def rewritten(source, target, change) -> None:
    """A zip archive with each file's bytes as `change(name, bytes)` gives them: (bytes, compression) or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if (made := change(name, old.read(name))) is not None:
                new.writestr(name, made[0], compress_type=made[1])


def test_archives_that_are_compressed_or_claim_more_than_they_hold_are_refused(tmp_path, entries):
    torch.save({"transformer.a": torch.zeros(1000)}, tmp_path / "whole.pth")
    storage = lambda name: name.endswith("data/0")  # noqa: E731
    rewritten(tmp_path / "whole.pth", tmp_path / "deflated.pth",
              lambda name, content: (bytes(50_000_000), zipfile.ZIP_DEFLATED) if storage(name) else (content, zipfile.ZIP_STORED))
    assert "its files are compressed, which torch.save never does" in refusal(tmp_path / "deflated.pth")
    rewritten(tmp_path / "whole.pth", tmp_path / "short.pth",
              lambda name, content: (content[:8] if storage(name) else content, zipfile.ZIP_STORED))
    assert "its storage '0' claims 1000 elements and the file does not hold them" in refusal(tmp_path / "short.pth")
    rewritten(tmp_path / "whole.pth", tmp_path / "gone.pth",
              lambda name, content: None if storage(name) else (content, zipfile.ZIP_STORED))
    assert "does not hold them" in refusal(tmp_path / "gone.pth")
    rewritten(tmp_path / "whole.pth", tmp_path / "large.pth",
              lambda name, content: (content + bytes(70 * 2**20) if name.endswith("data.pkl") else content, zipfile.ZIP_STORED))
    assert "what is no tensor in it takes more than 64 MiB" in refusal(tmp_path / "large.pth")


def test_only_regular_files_are_read_and_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        assert "is not a file: it is a pipe and only regular files are read" in refusal(tmp_path / name)
    assert "is not a file: it is a device" in refusal("/dev/zero")


def test_the_refusal_of_a_pickle_does_not_say_how_to_allow_it(tmp_path):
    class Evaluates:
        def __reduce__(self):
            return eval, ("1",)

    torch.save({"transformer.a": Evaluates()}, tmp_path / "checkpoint.pth")
    said = refusal(tmp_path / "checkpoint.pth")
    assert "eval" in said and not any(word in said for word in ("weights_only", "safe_globals", "allowlist"))


MUTATIONS, MUTATIONS_IN_FULL, SLOWEST_S, MOST_GROWTH = 24, 200, 10.0, 500 * 2**20


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Some bytes flipped, a piece cut out, doubled, zeroed or moved, or the end lost: mostly near the beginning and the end, where the
    pickles and the archive's list are."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        near = min(len(made), 3000)
        at = chance.choice((chance.randrange(len(made)), chance.randrange(near), len(made) - chance.randrange(1, near)))
        size = chance.choice((1, 4, 64, 1000))
        kind = chance.randrange(6)
        if kind <= 1:
            made[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            made[at : at + size] = bytes(chance.randrange(256) for _ in range(size))
        elif kind == 3:
            made[at : at + size] = made[at : at + size] * 2
        elif kind == 4:
            made[at : at + size] = b"\xff" * size
        elif len(made) - size > 100:
            del made[at : at + size]
    return bytes(made)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [MUTATIONS, pytest.param(MUTATIONS_IN_FULL, marks=pytest.mark.slow)])
def test_checkpoints_with_bytes_changed_at_random_load_or_are_one_sentence(tmp_path, model, entries, count):
    chance, path = random.Random(20261126), tmp_path / "mutated.pth"
    originals = []
    for legacy in (False, True):
        torch.save({"model": entries, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}, path, _use_new_zipfile_serialization=not legacy)
        originals.append(path.read_bytes())
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in range(count):
        path.write_bytes(mutated(originals[number % 2], chance))
        start_s = time.process_time()
        try:
            load_into(model, path)
        except UsageError as error:
            refused += 1
            assert str(error).count("\n") == 0
        assert time.process_time() - start_s < SLOWEST_S
    assert count // 4 < refused
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MOST_GROWTH
