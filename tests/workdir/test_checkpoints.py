"""A checkpoint is what was written, or is refused; the previous one stands in."""

import os
import shutil

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.training.teachers import Teachers
from cmarr_jax.workdir.checkpoints import Checkpoints

STATE = {"a": np.arange(600, dtype=np.float32).reshape(3, 200), "b": (np.zeros(3, np.int32), ())}
ORIGIN = {"config": "c", "corpus": "d"}


def state(epoch):
    return {"a": STATE["a"] + epoch, "b": STATE["b"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints after epochs 1, 2 and 3, of which `last` keeps two and `best` one."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(str(folder), ORIGIN) as checkpoints:
        for epoch in (1, 2, 3):
            checkpoints.save("", "last", epoch, state(epoch), [{"fold": 1}, None])
            checkpoints.save("", "best", epoch, state(epoch))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "sweep")


def resume(folder, origin=ORIGIN, like=STATE):
    return Checkpoints(str(folder), origin).resume("", like)


def files_below(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_the_newest_comes_back_as_it_was(folder):
    assert sorted(os.listdir(folder / "checkpoints/last")) == ["2", "3"]
    assert os.listdir(folder / "checkpoints/best") == ["3"]
    epoch, found, stopped = resume(folder)
    assert epoch == 3 and stopped == [{"fold": 1}, None] and found["b"][1] == ()
    np.testing.assert_array_equal(found["a"], state(3)["a"])
    np.testing.assert_array_equal(
        Checkpoints(str(folder)).restore("", "best", STATE)["a"], found["a"]
    )


def test_any_damage_to_any_file_is_noticed_or_does_not_matter(saved, tmp_path, capsys):
    rng = np.random.default_rng(0)
    noticed = 0
    for k, file in enumerate(files_below(saved / "checkpoints/last/3")):
        content = file.read_bytes()
        flipped = bytearray(content)
        at = int(rng.integers(len(content)))
        flipped[at] ^= 1 << int(rng.integers(8))
        for damaged in (None, content[: len(content) // 2], bytes(flipped)):
            folder = shutil.copytree(saved, tmp_path / f"{k}")
            target = folder / file.relative_to(saved)
            target.unlink() if damaged is None else target.write_bytes(damaged)
            epoch, found, _ = resume(folder)
            np.testing.assert_array_equal(found["a"], state(epoch)["a"])
            warned = "last/3: damaged (" in capsys.readouterr().err
            assert epoch == (2 if warned else 3)
            assert os.path.exists(folder / "checkpoints/last/3") != warned
            noticed += warned
            shutil.rmtree(folder)
    assert noticed >= 10


def test_flipped_bytes_of_the_arrays_are_noticed(folder, capsys):
    """Neither orbax nor tensorstore looks: the largest file holds the arrays."""
    file = max(files_below(folder / "checkpoints/last/3"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert resume(folder).epoch == 2
    assert "last/3: damaged (" in capsys.readouterr().err


def test_without_a_sound_one_it_refuses_and_removes_nothing(folder):
    for epoch in (2, 3):
        shutil.rmtree(folder / f"checkpoints/last/{epoch}/state")
    before = files_below(folder)
    with pytest.raises(
        UserError, match=r"last/3: damaged .*last/2: damaged .*delete .*checkpoints"
    ):
        resume(folder)
    assert files_below(folder) == before


def test_a_best_without_a_last_is_no_fresh_start(folder):
    shutil.rmtree(folder / "checkpoints/last")
    with pytest.raises(UserError, match="checkpoints/last: missing, though best is there"):
        resume(folder)
    shutil.rmtree(folder / "checkpoints")
    assert resume(folder) is None


def test_the_first_best_may_be_there_before_the_first_last(tmp_path):
    """A kill or a full disk came between the two: nothing is lost that was ever saved."""
    with Checkpoints(str(tmp_path), ORIGIN) as checkpoints:
        checkpoints.save("", "best", 1, STATE)
    assert resume(tmp_path) is None
    assert os.listdir(tmp_path / "checkpoints/best") == []


def test_a_damaged_best_is_refused(folder):
    shutil.rmtree(folder / "checkpoints/best/3/about")
    with pytest.raises(UserError, match=r"best/3: damaged .*delete status.json"):
        Checkpoints(str(folder)).restore("", "best", STATE)


@pytest.mark.parametrize("field", ["config", "corpus", "jax"])
def test_another_origin_is_refused(folder, field):
    with pytest.raises(UserError, match=f"last/3: was written with {field} .*, this is other"):
        resume(folder, ORIGIN | {field: "other"})


def test_an_older_layout_is_refused(folder):
    (folder / "checkpoints/last/3/default").mkdir()
    with pytest.raises(UserError, match="last/3: written by an older version"):
        resume(folder)


def test_another_shape_is_refused(folder):
    with pytest.raises(UserError, match=r"does not fit this config \(holds .3, 200., wanted .3, 9"):
        resume(folder, like=STATE | {"a": np.zeros((3, 9), np.float32)})


def test_an_epoch_under_another_number_is_damaged(folder):
    os.rename(folder / "checkpoints/last/3", folder / "checkpoints/last/7")
    assert resume(folder).epoch == 2


def test_what_killed_writes_left_is_removed(folder):
    for name in ("4.orbax-checkpoint-tmp-9", "1.removed"):
        (folder / "checkpoints/last" / name).mkdir()
    assert resume(folder).epoch == 3
    assert sorted(os.listdir(folder / "checkpoints/last")) == ["2", "3"]


def test_a_teacher_whose_bytes_changed_is_refused(tmp_path):
    teachers, file = Teachers(str(tmp_path), None, None), tmp_path / "teacher.npy"
    teachers.save(str(file), np.arange(8, dtype=np.float32))
    np.testing.assert_array_equal(teachers.load(str(file), 8), np.arange(8))
    np.testing.assert_array_equal(np.load(file), np.arange(8))
    content = file.read_bytes()
    for damaged in (content[:-20], b"", content[:140] + b"\1" + content[141:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged; delete it to train it anew"):
            teachers.load(str(file), 8)
