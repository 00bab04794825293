"""What a child says is checked like any foreign input before it is believed: events line by line, the reply as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from humar_bench.reading import parse_json
from humar_bench.records import fields, schema
from humar_bench.records.record import KINDS, STATUSES

MOST_EVENT = 4096  # bytes of one event
MOST_SAID = 16 * 2**20  # bytes of all events of a child
MOST_RESULT, MOST_RESULTS = 16 * 2**20, 2**30  # the same where events carry results
MOST_HEARD = 2**20  # bytes that are read at one look
MOST_REPLY = 64 * 2**20
MOST_TEXT = 100_000  # characters of a sentence
RESULT = {"status": str, "kind": str, "reason": str, "built": dict}


def read_event(line: bytes, names: Iterable[str], *, results: bool = False) -> dict[str, Any]:
    """stage, architecture ('' or one of `names`) and perhaps share; with `results` also item, result and environment. Raises ValueError,
    as part of a sentence, for anything else."""
    event = _object(parse_json(line, MOST_RESULT if results else MOST_EVENT), "an event")
    known = {"stage", "architecture", "share", *(("item", "result", "environment") if results else ())}
    if unknown := sorted(event.keys() - known):
        raise ValueError(f"an event has no {unknown[0][:40]!r}")
    if "result" in event:
        check_result(event["result"], "the result of an event")
    if "environment" in event:
        check_environment(event["environment"])
    if not isinstance(event.get("stage"), str) or len(event["stage"]) > 100:
        raise ValueError("an event's stage is no short text")
    if event.get("architecture", "") not in ("", *names):
        raise ValueError(f"an event names {str(event['architecture'])[:40]!r}, which is not in that process")
    share = event.get("share", 0.0)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise ValueError("an event's share is no number from 0 to 1")
    return {**event, "architecture": event.get("architecture", "")}


def read_reply(content: bytes) -> dict[str, Any]:
    """A reply as every child gives one. Raises ValueError."""
    reply = _object(parse_json(content, MOST_REPLY), "a reply")
    for name in ("usage_error", "error"):
        if name in reply:
            _text(reply[name], f"its {name}")
    if "environment" in reply:
        check_environment(reply["environment"])
    return reply


def check_environment(environment: Any) -> None:
    """Raises ValueError."""
    for name, value in _object(environment, "its environment").items():
        if isinstance(value, str):
            _text(value, f"its environment's {name[:40]}")
    if found := fields.faults(environment, schema.Environment):
        raise ValueError(f"in its environment {found[0]}")


def check_results(reply: Mapping[str, Any]) -> None:
    """Of the bench's child: environment, and per architecture a result. Raises ValueError."""
    if "usage_error" in reply:
        return
    if "environment" not in reply:
        raise ValueError("it lacks an environment")
    for name, result in _object(reply.get("results"), "its results").items():
        check_result(result, f"the result of {name[:40]}")


def check_result(result: Any, said: str) -> None:
    """One result: status, kind, reason, built and measured, as a record takes them. Raises ValueError."""
    result = _object(result, said)
    if odd := sorted(result.keys() ^ {*RESULT, "measured"}):
        raise ValueError(f"{said} {'lacks' if odd[0] in {*RESULT, 'measured'} else 'has no'} {odd[0][:40]!r}")
    for name, kind in RESULT.items():
        if not isinstance(result[name], kind):
            raise ValueError(f"{name} of {said} is {str(result[name])[:40]!r}")
    _text(result["reason"], f"the reason of {said}")
    if result["status"] not in STATUSES or result["kind"] not in KINDS:
        raise ValueError(f"{said} has status {result['status'][:40]!r} and kind {result['kind'][:40]!r}")
    failed = result["status"] == "failed"
    if not isinstance(result["measured"], (dict, type(None))) or failed != bool(result["kind"]) or failed != (result["measured"] is None):
        raise ValueError(f"{said} is {result['status']} with kind {result['kind']!r} and measured {type(result['measured']).__name__}")


def _object(value: Any, said: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{said} is a {type(value).__name__}, not an object")
    return value


def _text(value: Any, said: str) -> None:
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise ValueError(f"{said} is no text of at most {MOST_TEXT:,} characters")
