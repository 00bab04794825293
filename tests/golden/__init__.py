"""Golden files: what a screen or a file must look like, byte for byte, and the made-up records they are written from.

`HUMAR_BENCH_OVERWRITE_GOLDEN=1 pytest` writes them again; read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent
OVERWRITE = "HUMAR_BENCH_OVERWRITE_GOLDEN"


def check_golden(name: str, text: str) -> None:
    """Hold `text` against the golden file `name`; with the overwrite switch, write it instead."""
    path = FOLDER / name
    if os.environ.get(OVERWRITE):
        path.write_bytes(text.encode("utf-8"))
    assert path.exists(), f"{path} is missing; write it with {OVERWRITE}=1."
    assert text == path.read_bytes().decode("utf-8"), f"the output differs from {path}; look, then write it with {OVERWRITE}=1."
