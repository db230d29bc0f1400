"""The same config and seed twice give the same bits on the same machine."""

import pytest

from tests.faults import runs

pytestmark = pytest.mark.faults


def test_the_same_command_twice_gives_the_same_bits(sweeps, whole, tmp_path):
    again = tmp_path / "again"
    ended = sweeps.run(again)
    assert ended.code == 0, ended.err
    runs.assert_same(again, whole)
    runs.assert_clean(again, whole)
