"""What the tables say below about numbers that no count has."""

from __future__ import annotations

from humar_bench.report.flops_table import flops_tables
from humar_bench.report.params_table import params_tables

PARAMS = {
    "total": 10, "trainable": 10, "frozen": 0, "buffers": 0, "param_bytes": 40, "components": {"(top)": 10},
    "unregistered": [
        {"name": "layers[0].weight", "elements": 65_536, "bytes": 262_144, "kind": ""},
        {"name": "layers[0].bias", "elements": 256, "bytes": 1_024, "kind": ""},
        {"name": "packed", "elements": 2_048, "bytes": 1_024, "kind": "4-bit"},
    ],
}
FLOPS = {
    "matmul_flops": 100, "macs": 50, "second_tier_flops": 0, "second_tier": {}, "coefficients": {}, "batch": 2, "operators": [],
    "components": {}, "uncounted": [], "kernels": 1, "synchronisations": 0,
}


def test_strangers_unregistered_numbers_stand_below_the_parameters():
    feet = params_tables({"listed": PARAMS, "clean": {**PARAMS, "unregistered": []}}, {}, "listed")[0].feet
    assert feet == (
        "listed: its forward reads 65,792 numbers that are neither parameter, buffer nor input, 263,168 bytes, which are not counted as "
        "parameters: layers[0].weight (65,536), layers[0].bias (256).",
        "listed: its forward reads 2,048 weights packed as 4-bit, 1,024 bytes, which are not counted as parameters: packed (2,048).",
    )


def test_strangers_work_outside_torch_takes_every_operator_was_counted_away():
    tables = flops_tables({"inside": FLOPS, "outside": {**FLOPS, "outside": 2}}, {}, "inside")
    said = " ".join(tables[0].feet)
    assert "outside: NOT COUNTED, numbers came 2 times from where no operator is seen" in said and "Its total is a lower bound." in said
    assert "Every operator was counted: inside." in said
    assert [row["against"] for row in tables[0].rows] == ["", "the same (not all counted)"]
