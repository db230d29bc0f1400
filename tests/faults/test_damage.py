"""Damaged, missing and foreign checkpoints: the one before is used, or the sweep refuses."""

import os
import shutil

import pytest

from tests.faults import runs

pytestmark = pytest.mark.faults


def break_checkpoint(folder, how):
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if how == "missing":
        file.unlink()
    if how == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    if how == "flipped":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_from_a_damaged_checkpoint_it_goes_back_to_the_one_before(sweeps, whole, tmp_path, how):
    out = runs.copy(whole, tmp_path / "out")
    (out / "status.json").unlink()
    break_checkpoint(out / "checkpoints/last/6", how)
    ended = sweeps.run(out)
    assert ended.code == 0 and "last/6: damaged (" in ended.err, ended.err
    assert "going on from epoch 5" in ended.err and "epoch 6/6" in ended.err
    assert "epoch 5/6" not in ended.err and "Traceback" not in ended.err
    runs.assert_same(out, whole)


def test_a_damaged_best_is_written_anew(sweeps, whole, tmp_path):
    out = runs.copy(whole, tmp_path / "out")
    break_checkpoint(out / "checkpoints/best/6", "flipped")
    (out / "status.json").unlink()
    assert sweeps.run(out).code == 0
    runs.assert_same(out, whole)


def test_checkpoints_of_another_sweep_are_refused(sweeps, whole, tmp_path):
    out = tmp_path / "out"
    other = "--config.train.weight_decay=0.5"  # arrays of the same shapes
    sweeps.kill_at("epoch 2/6", out, other)
    shutil.rmtree(out / "checkpoints")
    runs.copy(whole / "checkpoints", out / "checkpoints")
    ended = sweeps.run(out, other)
    assert ended.code == 2 and "was written with config " in ended.errors[0], ended.err
    ended = sweeps.run(out)
    assert ended.code == 2 and "belongs to a sweep with train.weight_decay=0.5" in ended.errors[0]


def test_without_any_sound_checkpoint_it_refuses(sweeps, whole, tmp_path):
    out = runs.copy(whole, tmp_path / "out")
    (out / "status.json").unlink()
    for epoch in (5, 6):
        break_checkpoint(out / f"checkpoints/last/{epoch}", "missing")
    ended = sweeps.run(out)
    assert ended.code == 2 and "no checkpoint is left to go on from" in ended.errors[0]
    shutil.rmtree(out / "checkpoints/last")
    ended = sweeps.run(out)
    assert ended.code == 2 and "last: missing, though best is there" in ended.errors[0]
