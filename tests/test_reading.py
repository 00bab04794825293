"""Files of somebody else are read with bounds: on what they are, on their size, and on what JSON may hold."""

from __future__ import annotations

import json
import os

import pytest

from humar_bench.reading import MOST_DEPTH, NotRegular, parse_json, read_bytes, read_lines


@pytest.mark.parametrize("read", [read_bytes, lambda path: list(read_lines(path))])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path / "link", "a pipe"), ("/dev/zero", "a device"), (tmp_path, "a folder")):
        with pytest.raises(NotRegular) as refused:
            read(path)
        assert refused.value.strerror == f"it is {kind} and only regular files are read"
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")


def test_a_file_is_read_up_to_a_bound_that_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"a" * 100)
    assert read_bytes(tmp_path / "file", 100) == b"a" * 100
    with pytest.raises(OSError) as refused:
        read_bytes(tmp_path / "file", 99)
    assert refused.value.strerror == "it is larger than 0 MiB, the most that is read"
    with pytest.raises(OSError, match="larger than"):
        list(read_lines(tmp_path / "file", most=50))


@pytest.mark.parametrize("content", [b"", b"a", b"a\n", b"\n\na\nb", b"a\n\n"])
def test_lines_are_those_of_the_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert list(read_lines(tmp_path / "file")) == content.splitlines(keepends=True)


def test_a_line_that_is_too_long_is_never_held_whole(tmp_path):
    (tmp_path / "file").write_bytes(b"a\n" + b"b" * 5_000_000 + b"\nc\n" + b"d" * 3_000_000)
    first, second, third, last = read_lines(tmp_path / "file", most_line=1000)
    assert (first, third) == (b"a\n", b"c\n")
    assert len(second) < 1100 and second.endswith(b"b\n") and len(last) < 1100 and last.endswith(b"d")


@pytest.mark.parametrize(("text", "said"), [
    ("[" * 900 + "]" * 900, "nested more than 100 levels deep"), ("[" * 100_000, "nested more than 100 levels deep"),
    ('{"a":' * 900 + "1" + "}" * 900, "nested more than 100 levels deep"),
    ("9" * 400, "a whole number of 400 digits"), ("-" + "9" * 5000, "a whole number of 5000 digits"), ("1e999", "1e999, which no double"),
    ("1." + "0" * 500, r"1\.0+\.\.\., which no double"), ("NaN", "holds NaN, which is no number"), ("-Infinity", "holds -Infinity"),
    ('{"a": 1, "b": 2, "a": 1}', "it gives the key 'a' twice"), ('[{"x": {"\\u0061": 1, "a": 2}}]', "it gives the key 'a' twice"),
    ("{", "at line 1, column 2"), (b"\xff", "byte 0 is not UTF-8"), (b'"\xed\xa0\x80"', "is not UTF-8"), ("", "at line 1, column 1"),
])
def test_json_that_could_not_be_written_again_is_refused_with_a_reason(text, said):
    with pytest.raises(ValueError, match=said) as refused:
        parse_json(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_all_other_json_is_what_it_is():
    value = {"a": [1, -2.5, None, True, "ü𝄞", 2**62], "deep": json.loads("[" * (MOST_DEPTH - 2) + "]" * (MOST_DEPTH - 2))}
    assert parse_json(json.dumps(value)) == value == parse_json(json.dumps(value, ensure_ascii=False).encode())
    assert parse_json('"\\ud834\\udd1e"') == "𝄞"
