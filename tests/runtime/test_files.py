"""Files and folders that appear whole or not at all."""

import os

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.runtime import files


def test_a_draft_takes_its_name_only_at_the_end(tmp_path):
    file = str(tmp_path / "out.txt")
    with files.opened(file, "w") as f:
        f.write("ä")
        assert not os.path.exists(file)
    with open(file, encoding="utf-8") as f:
        assert f.read() == "ä"
    folder = str(tmp_path / "pack")
    with files.draft(folder) as name:
        os.makedirs(name)
        assert not os.path.exists(folder)
    assert sorted(os.listdir(tmp_path)) == ["out.txt", "pack"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_one_stands_and_no_draft_is_left(tmp_path, error):
    file = str(tmp_path / "out")
    files.write_whole(file, b"old")

    def write_and_fail():
        with files.opened(file) as f:
            f.write(b"new")
            raise error

    def fill_and_fail():
        with files.draft(str(tmp_path / "pack")) as name:
            os.makedirs(os.path.join(name, "inner"))
            raise error

    for failing in (write_and_fail, fill_and_fail):
        with pytest.raises(error):
            failing()
    with open(file, "rb") as f:
        assert f.read() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "a.csv.tmp123").write_text("half")
    (tmp_path / "model.tmp9").mkdir()
    (tmp_path / "a.csv").write_text("whole")
    files.remove_drafts(str(tmp_path))
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match="a/b: cannot be written"):
        files.write_whole(str(tmp_path / "a" / "b"), b"")


def test_csv_has_the_first_rows_columns_unless_others_are_named():
    rows = [{"a": 1, "b": 'x,"y"'}, {"a": 2, "b": ""}]
    assert files.to_csv(rows) == 'a,b\n1,"x,""y"""\n2,\n'
    assert files.to_csv([{"a": 1}], ["a", "c"]) == "a,c\n1,\n"
