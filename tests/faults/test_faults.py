"""Each seeded fault ends in a flag or in an exit code that is not 0, and its clean twin raises none. Nothing here measures real time."""

from __future__ import annotations

import re

import pytest

from tests.faults import FAULTS, counting, output, peaks, timing, to_markdown
from tests.faults.fault import GROUPS
from tests.golden import check_golden


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_seeded_fault_is_named_and_its_clean_twin_raises_no_flag(fault):
    assert any(re.search(fault.says, said, re.DOTALL) for said in fault.faulty()), fault.faulty()
    assert fault.clean() == []


def test_there_are_at_least_forty_faults_of_every_kind_each_with_a_name_of_its_own():
    assert len(FAULTS) == len({fault.name for fault in FAULTS}) >= 40
    assert [len(each.FAULTS) for each in (timing, peaks, counting, output)] == [
        sum(fault.group == group for fault in FAULTS) for group in GROUPS
    ]
    assert all(fault.seeded and fault.effect and fault.caught for fault in FAULTS)


def test_the_page_of_faults_is_the_table_of_the_tests():
    check_golden("../../docs/faults.md", to_markdown())
