"""How much worse a new run may be, measure by measure: what `compare --fail-on` is given."""

from __future__ import annotations

import math

from humar_bench.errors import UsageError

LIMIT_OF = {"params": "params", "flops": "flops", "memory": "memory", "fps": "slower"}
DEFAULT_LIMITS = {"slower": 0.02, "memory": 0.01, "params": 0.0, "flops": 0.0}


def parse_limits(text: str) -> dict[str, float]:
    """'slower:2%,memory:1%,params:0' -> shares by name. Raises UsageError."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, colon, amount = (each.strip() for each in part.partition(":"))
        if not colon or not amount:
            raise UsageError(f"--fail-on is {text!r} and {part.strip()!r} is no limit; write NAME:SHARE, such as slower:2%.")
        if name not in DEFAULT_LIMITS:
            raise UsageError(f"--fail-on names {name!r}; choose from {', '.join(DEFAULT_LIMITS)}.")
        if name in limits:
            raise UsageError(f"--fail-on gives {name} twice; give it once.")
        limits[name] = _share(name, amount)
    return limits


def _share(name: str, amount: str) -> float:
    try:
        value = float(amount.removesuffix("%"))
    except ValueError:
        raise UsageError(f"--fail-on {name} is {amount!r}; write a share in percent, such as 2%.") from None
    if not 0 <= value < math.inf:
        raise UsageError(f"--fail-on {name} is {amount!r}; it must be 0 or more, and finite.")
    if value and not amount.endswith("%"):
        raise UsageError(f"--fail-on {name} is {amount!r}, without a unit; write {amount}% for percent.")
    return value / 100
