"""Records that anybody may have changed, at random, through every command that reads them: one sentence at most, nothing that takes long
or much memory, and nothing is called all right that `verify` refuses."""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from humar_bench import cli
from humar_bench.records.record import RECORDS_NAME, Record, load
from humar_bench.records.writer import RecordWriter
from humar_bench.report import write_report
from humar_bench.running import bench, costs
from humar_bench.running.children import Child
from humar_bench.saved.verify import read_records
from tests.golden.records import made_up_run

FAKE = (sys.executable, "-S", "-E", str(Path(__file__).parents[1] / "data" / "killed_worker.py"))
WORK = ["--workload", "uniphd", "--batch", "2"]
MOST_CPU_S, MOST_BYTES = 10.0, 500 * 2**20
VALUES = (
    -1, 0, 0.5, -0.0, 1e308, -1e308, 2**63 - 1, 10**18, None, True, False, "", "x", "\x1b[2J", "\ud800", "=1+1", [], {}, [[]], {"": {}},
    [None], "9" * 50, ["x"] * 30, {"a": -1}, "2026-01-01", 1, 2, 1.0,
)
RAW = (  # in place of a value, in the text
    "NaN", "-Infinity", "1e999", "9" * 400, "[" * 900 + "]" * 900, '{"a":' * 200 + "1" + "}" * 200, '"\\ud800"', "01", "'x'", "", "nul",
    '"\\x"', '{"a": 1, "a": 2}',
)


def places(value, place=()):
    """Every place in a record, objects and lists themselves too."""
    yield place
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*place, key))
    elif isinstance(value, list):
        for index, each in enumerate(value[:3]):
            yield from places(each, (*place, index))


def put(value, place, new):
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] = new


def get(value, place):
    for key in place:
        value = value[key]
    return value


def stamped(values: dict) -> str:
    """The record as a foreign program would write it that knows how ids are made."""
    try:
        return Record(**{**values, "id": ""}).to_json()
    except (AttributeError, TypeError, ValueError):
        return json.dumps(values)


def changed_value(chance: random.Random, line: str) -> str:
    """Another value somewhere, half of the time with an id made anew."""
    values = json.loads(line)
    place = chance.choice([each for each in places(values) if each and each[0] not in ("id", "format")])
    old = get(values, place)
    near = [-old, old + 1, old / 2, old * 1000, old * (1 + 1e-6)] if isinstance(old, (int, float)) and not isinstance(old, bool) else []
    put(values, place, chance.choice([*near, *VALUES]))
    return stamped(values) if chance.random() < 0.6 else json.dumps(values)


def lost_or_added_key(chance: random.Random, line: str) -> str:
    values = json.loads(line)
    place = chance.choice([each for each in places(values) if isinstance(get(values, each), dict)])
    inside = get(values, place)
    if inside and chance.random() < 0.7:
        del inside[chance.choice(list(inside))]
    else:
        inside[chance.choice(("x", "", "total", "wall_s", "\ud800", "batch"))] = chance.choice(VALUES)
    return stamped(values) if chance.random() < 0.6 else json.dumps(values)


def raw_text(chance: random.Random, line: str) -> str:
    """Something that is no value of JSON, or too much of it, in place of a number."""
    numbers = [index for index in range(2, len(line)) if line[index].isdigit() and line[index - 1] == " "]
    start = chance.choice(numbers)
    end = next(index for index in range(start, len(line)) if line[index] in ",]}")
    return line[:start] + chance.choice(RAW) + line[end:]


def bytes_of(chance: random.Random, line: str) -> bytes:
    content = bytearray(line.encode())
    for _ in range(chance.choice((1, 1, 3))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def mutated(chance: random.Random, lines: list[str]) -> bytes:
    """The records file with one thing wrong."""
    index = chance.randrange(len(lines))
    kinds = ("raw", "bytes", "bytes", "twice", "lost", "order", "torn", "text", "long", "spelling")
    kind = chance.choice((*["value"] * 8, *["key"] * 4, *kinds))
    new: list[bytes] = [each.encode() + b"\n" for each in lines]
    inside = {"value": changed_value, "key": lost_or_added_key, "raw": raw_text, "bytes": bytes_of}
    if kind in inside:
        made = inside[kind](chance, lines[index])
        new[index] = (made.encode("utf-8", "backslashreplace") if isinstance(made, str) else made.replace(b"\n", b" ")) + b"\n"
    elif kind == "twice":
        new.insert(chance.randrange(len(new)), new[index])
    elif kind == "lost":
        del new[index]
    elif kind == "order":
        chance.shuffle(new)
    elif kind == "torn":
        content = b"".join(new)
        return content[: chance.randrange(len(content))] + chance.choice((b"", b"", b"\0\0\0", b"note"))
    elif kind == "text":
        texts = (b"note", b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{" * 100_000, b"\x1b]52;c;x\x07")
        new.insert(index, chance.choice(texts) + b"\n")
    elif kind == "long":
        new[index] = new[index].replace(b'"reason": ""', b'"reason": "' + b"x" * chance.choice((10**5, 5 * 10**6)) + b'"')
    else:
        new[index] = new[index].replace(b'", "', chance.choice((b'","', b'" , "', b'",  "')), 1)
    return b"".join(new)


@pytest.fixture
def children(tmp_path, monkeypatch):
    """Children that answer with the values the records were made from, so that a resumed run measures what is missing."""
    values = tmp_path / "values.json"
    made: dict[str, dict] = {}
    for each in made_up_run():
        made.setdefault(each.measure, {})[each.architecture] = each.measured
    values.write_text(json.dumps(made))
    monkeypatch.setenv("JOBS_VALUES", str(values))
    monkeypatch.setenv("JOBS_LOG", str(tmp_path / "jobs.log"))
    for each in (bench, costs):
        monkeypatch.setattr(each, "Child", lambda request, **more: Child(request, **more, command=FAKE))


def one_mutation(seed: int, base: Path, place: Path, run: Callable[[list[str]], int]) -> None:
    """Mutate a copy of a report and hand it to every command that reads records."""
    chance = random.Random(seed)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(base, place)
    records = place / RECORDS_NAME
    content = mutated(chance, records.read_text().splitlines())
    records.write_bytes(content)
    refused = run(["verify", str(place)])
    assert refused in (0, 2, 5), seed
    for sides in ([base, place], [place, base], [place, place]):
        code = run(["compare", *map(str, sides), *chance.choice(([], ["--across-machines"], ["--fail-on", "params:0"]))])
        assert code in (0, 2, 3, 4, 5), seed
        assert code or not refused, f"mutation {seed}: compare calls all right what verify refuses"
    wrong = [each for each in read_records(records)[1] if not each.torn] if refused != 2 else ["not read"]
    for argv in (["params", *WORK, "--resume", str(records), "--csv", "-"], ["report", *WORK, "-q", "--resume", str(place)]):
        code = run(argv)
        assert code in (0, 1, 2, 5), seed
        assert code or not wrong, f"mutation {seed}: {argv[0]} --resume goes on with what verify refuses"


def fuzz(seeds: range, tmp_path: Path, capsys, *, bounds: bool = False) -> None:
    base = tmp_path / "base"
    made = made_up_run("original", "efficient")
    with RecordWriter(base / RECORDS_NAME) as writer:
        writer.write(*made)
    write_report(made, base)
    for argv in (["verify", str(base)], ["compare", str(base), str(base)], ["params", *WORK, "--resume", str(base)]):
        assert cli.main(argv) == 0, capsys.readouterr()

    def run(argv: list[str]) -> int:
        before_s = time.process_time()
        code = cli.main(argv)  # an exception that is not ours to expect ends the test here, with its traceback
        printed = capsys.readouterr()
        assert printed.err.count("\n") <= 3 and len(printed.err) < 2000 and "Traceback" not in printed.err + printed.out, argv
        assert "\x1b" not in printed.out + printed.err
        assert not bounds or time.process_time() - before_s < MOST_CPU_S, argv
        return code

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # other tests of this process may have held more before
    for seed in seeds:
        one_mutation(seed, base, tmp_path / "new", run)
    assert not bounds or 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) < MOST_BYTES


@pytest.mark.parametrize("part", range(4))
def test_a_few_random_changes_through_every_command(children, tmp_path, capsys, part):
    fuzz(range(6 * part, 6 * part + 6), tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(10, 15))
def test_three_hundred_random_changes_through_every_command(children, tmp_path, capsys, hundred):
    fuzz(range(100 * hundred, 100 * hundred + 60), tmp_path, capsys, bounds=True)


def test_the_fuzz_can_fail(children, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("humar_bench.saved.verify.read_audited", lambda path: (load(path), []))
    with pytest.raises(AssertionError, match="compare calls all right what verify refuses"):
        fuzz(range(20), tmp_path, capsys)
