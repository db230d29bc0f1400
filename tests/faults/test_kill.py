"""`kill -9` at any moment, then the same command again: the same bits as undisturbed."""

import os
import random
import signal
import time

import pytest

from tests.faults import runs

pytestmark = pytest.mark.faults

# Kills the process itself at the n-th call that changes what lies on the disk: within orbax'
# writes, the results', between two renames, while old checkpoints are removed.
AT_CALL = """
import os, shutil, signal
calls = 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("replace", "rename", "fsync", "remove", "unlink", "rmdir", "mkdir", "link"):
    setattr(os, name, counted(getattr(os, name)))
import atexit
atexit.register(lambda: print("calls:", calls, file=__import__("sys").stderr))
"""


def disturbed(sweeps, folder, kills, kill, *flags):
    """Starts sweeps below `folder` and calls `kill` on each until `kills` were killed; each
    folder is gone on with until its sweep ends. Returns the folders.
    """
    folders, killed = [folder / "0"], 0
    while killed < kills:
        pid = sweeps.start(folders[-1], *flags)
        kill(pid)
        ended = sweeps.wait(pid)
        assert ended.code in (0, -signal.SIGKILL), ended.err
        assert not ended.errors, ended.err
        killed += ended.code != 0
        if ended.code == 0:
            folders.append(folder / str(len(folders)))
    ended = sweeps.run(folders[-1], *flags)
    assert ended.code == 0, ended.err
    return folders


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_a_sweep_ends_in_the_same_bits(sweeps, whole, tmp_path, seed):
    draw = random.Random(seed)

    def kill(pid):
        sweeps.kill_after(draw.uniform(0.0, 5.0), pid)  # undisturbed it takes about 4

    for folder in disturbed(sweeps, tmp_path, 7, kill):
        runs.assert_same(folder, whole)
        runs.assert_clean(folder, whole)


def test_killed_sweeps_that_are_trained_together_end_in_the_bits_of_each_alone(
    sweeps, whole, tmp_path
):
    """A kill between their checkpoints leaves them at different epochs."""
    draw = random.Random(3)

    def kill(pid):
        sweeps.kill_after(draw.uniform(2.0, 6.0), pid)

    two = "(('a','full_modality'),('b','full_modality,train.learning_rate=0.002'))"
    for folder in disturbed(sweeps, tmp_path, 4, kill, f"--config.members={two}"):
        runs.assert_same(folder / "a", whole)
        runs.assert_clean(folder / "a", whole)
        results = (folder / "b" / "results.csv").read_text()
        assert results.count("train.learning_rate=0.002") > 3
        assert results.count("\n") == (whole / "results.csv").read_text().count("\n")


def test_killed_inside_checkpoint_writes_a_sweep_ends_in_the_same_bits(sweeps, whole, tmp_path):
    draw = random.Random(7)

    def kill(pid):
        (folder,) = [f for f in tmp_path.iterdir() if not (f / "results.csv").exists()] or [None]
        writes = draw.randrange(1, 5)
        seen = set()
        while sweeps.cpu_seconds(pid) is not None:
            drafts = {*folder.glob("checkpoints/*/*.orbax-checkpoint-tmp*")} if folder else set()
            if len(seen := seen | drafts) >= writes and drafts:
                time.sleep(draw.uniform(0, 0.03))
                break
        os.kill(pid, signal.SIGKILL)

    (tmp_path / "0").mkdir()
    for folder in disturbed(sweeps, tmp_path, 7, kill):
        runs.assert_same(folder, whole)
        runs.assert_clean(folder, whole)


def test_killed_at_a_call_that_changes_the_disk_a_sweep_ends_in_the_same_bits(
    sweeps, whole, tmp_path
):
    counted = sweeps.run(tmp_path / "counted", before=AT_CALL.format(number=-1))
    (calls,) = [int(x.split()[1]) for x in counted.err.splitlines() if x.startswith("calls:")]
    assert calls > 50
    draw = random.Random(11)
    for k in range(4):  # each sweep is killed twice
        folder = tmp_path / str(k)
        for span in (calls, calls // 2):
            ended = sweeps.run(folder, before=AT_CALL.format(number=draw.randrange(1, span)))
            assert ended.code in (0, -signal.SIGKILL), ended.err
        ended = sweeps.run(folder)
        assert ended.code == 0, ended.err
        runs.assert_same(folder, whole)
        runs.assert_clean(folder, whole)


def test_a_killed_teacher_and_a_killed_student_end_in_the_same_bits(sweeps, tmp_path):
    few = [
        "--config.train.epochs=2",
        "--config.pretrain.epochs=2",
        "--config.pretrain.batch_size=8",
    ]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert sweeps.run(whole, *few, system="mmin").code == 0
    for line in ("teacher epoch 1/2", "teacher epoch 2/2", "\nepoch 1/2"):
        _, ended = sweeps.kill_at(line, out, *few, system="mmin")
        assert ended.code == -signal.SIGKILL
    assert sweeps.run(out, *few, system="mmin").code == 0
    runs.assert_same(out, whole)
    for file in (whole / "teachers").iterdir():
        assert (out / "teachers" / file.name).read_bytes() == file.read_bytes()


def test_curves_of_a_killed_sweep_have_every_epoch_and_no_other_value(sweeps, whole, tmp_path):
    out = tmp_path / "out"
    sweeps.kill_at("epoch 3/6", out)
    assert sweeps.run(out).code == 0
    for run in ("fold1_seed0", "fold2_seed0"):
        ours, theirs = scalars(out / "metrics" / run), scalars(whole / "metrics" / run)
        assert ours == theirs and {step for _, step in ours} == {1, 2, 3, 4, 5, 6}


def scalars(folder):
    """(tag, epoch) -> the values that were written; one, however often."""
    from tensorboard.backend.event_processing import event_file_loader
    from tensorboard.util import tensor_util

    found = {}
    for file in folder.iterdir():
        for event in event_file_loader.EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                number = float(tensor_util.make_ndarray(value.tensor))
                found.setdefault((value.tag, event.step), set()).add(number)
    return found


def test_a_killed_evaluation_leaves_results_and_figure_whole(sweeps, whole, tmp_path):
    folder, figure = runs.copy(whole, tmp_path / "sweep"), tmp_path / "figure.png"
    flags = [f"--figure={figure}"]
    first = sweeps.run(folder, *flags, script="evaluate.py")
    assert first.code == 0, first.err
    drawn = figure.read_bytes()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    draw = random.Random(3)
    for k in range(5):
        pid = sweeps.start(
            folder,
            *flags,
            script="evaluate.py",
            before=AT_CALL.format(number=k + 1) if k < 2 else "",
        )
        sweeps.kill_after(draw.uniform(0.0, 1.5) if k >= 2 else 60, pid)
        sweeps.wait(pid)
        assert figure.read_bytes() == drawn
    again = sweeps.run(folder, *flags, script="evaluate.py")
    assert again.code == 0 and again.out == first.out and figure.read_bytes() == drawn
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_compile_cache_torn_by_a_kill_costs_time_alone(sweeps, whole, tmp_path):
    cache = tmp_path / "cache"
    setting = f"import jax; jax.config.update('jax_compilation_cache_dir', {str(cache)!r})"
    assert sweeps.run(tmp_path / "a", before=setting).code == 0
    torn = sorted(cache.glob("*-cache"))
    assert torn
    for file in torn:
        os.truncate(file, file.stat().st_size // 2)
    ended = sweeps.run(tmp_path / "b", before=setting)
    assert ended.code == 0 and not ended.errors, ended.err
    runs.assert_same(tmp_path / "b", whole)
