"""SIGTERM, which a Cloud TPU gets before it is taken away: saved, and gone within 10 s. Ctrl-C:
saved at the end of the running epoch, or gone at once when it is pressed again.
"""

import os
import signal
import time

import pytest

from tests.faults import runs

pytestmark = pytest.mark.faults

# An epoch that takes minutes, of which Python gets no instruction.
LONG = """
import time
from cmarr_jax.training import loop as training
order = training.epoch_order
def long(run_ids, epoch, *rest):
    if epoch == {epoch}:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            time.sleep(until - time.monotonic())
    return order(run_ids, epoch, *rest)
training.epoch_order = long
"""


def terminate(sweeps, pid):
    start = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    ended = sweeps.wait(pid)
    assert time.monotonic() - start < 10
    assert ended.code == 143, ended.err
    return ended


def test_what_was_trained_is_saved_though_no_checkpoint_was_due(sweeps, whole, tmp_path):
    out, rarely = tmp_path / "out", "--config.checkpoint_seconds=1000"
    slow = "import time; from cmarr_jax.cli import progress; old = progress.Progress.epoch\n"
    slow += "progress.Progress.epoch = lambda self, epoch: (old(self, epoch), time.sleep(0.5))"
    pid = sweeps.start(out, rarely, before=slow)
    sweeps.said(pid, "epoch 2/6")
    ended = terminate(sweeps, pid)
    saved = max(int(x.name) for x in (out / "checkpoints/last").iterdir())
    assert saved >= 2 and f"SIGTERM: saved after epoch {saved} of 6; the same" in ended.err
    assert "Traceback" not in ended.err and not (out / "lock").exists()
    again = sweeps.run(out, rarely)
    assert again.code == 0 and f"epoch {saved}/6" not in again.err and "epoch 6/6" in again.err
    runs.assert_same(out, whole) if saved == 5 else None
    assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


# In the background of a shell it is ignored.
HEARD = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def test_ctrl_c_saves_at_the_end_of_the_running_epoch(sweeps, whole, tmp_path):
    out, rarely = tmp_path / "out", "--config.checkpoint_seconds=1000"
    slow = "import time; from cmarr_jax.cli import progress; old = progress.Progress.epoch\n"
    slow += "progress.Progress.epoch = lambda self, epoch: (old(self, epoch), time.sleep(0.5))"
    pid = sweeps.start(out, rarely, before=HEARD + slow)
    sweeps.said(pid, "epoch 2/6")
    os.kill(pid, signal.SIGINT)
    ended = sweeps.wait(pid)
    saved = max(int(x.name) for x in (out / "checkpoints/last").iterdir())
    assert ended.code == 130 and saved >= 2 and ended.errors == [], ended.err
    assert "Ctrl-C: the running epoch is saved at its end; once more ends at once" in ended.err
    assert f"SIGINT: saved after epoch {saved} of 6; the same command resumes there" in ended.err
    again = sweeps.run(out, rarely)
    assert again.code == 0 and f"resumed at epoch {saved}\n" in again.err
    assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_ctrl_c_twice_ends_at_once(sweeps, whole, tmp_path):
    out = tmp_path / "out"
    pid = sweeps.start(out, before=HEARD + LONG.format(epoch=3))
    sweeps.said(pid, "epoch 2/6")
    time.sleep(1)
    start = time.monotonic()
    os.kill(pid, signal.SIGINT)
    sweeps.said(pid, "Ctrl-C: ")
    os.kill(pid, signal.SIGINT)
    ended = sweeps.wait(pid)
    assert ended.code == 130 and time.monotonic() - start < 10 and ended.errors == []
    assert "interrupted; the same command resumes from the last checkpoint" in ended.err
    assert sweeps.run(out).code == 0
    runs.assert_same(out, whole)
    runs.assert_clean(out, whole)


def test_before_the_first_epoch_ctrl_c_ends_at_once(sweeps, tmp_path):
    waits = "import time; from cmarr_jax.experiment import prepare\n"
    waits += "def wait(*_): print('waiting', file=__import__('sys').stderr, flush=True); time.sleep(60)\n"
    waits += "prepare.prepare = wait\n"
    pid = sweeps.start(tmp_path / "out", before=HEARD + waits)
    sweeps.said(pid, "waiting")
    os.kill(pid, signal.SIGINT)
    ended = sweeps.wait(pid)
    assert ended.code == 130 and ended.seconds < 40 and "interrupted" in ended.err


CONSTANT = ["--config.train.schedule=constant", "--config.train.warmup=0.0"]


def test_more_epochs_in_the_same_folder_are_those_of_a_longer_training(sweeps, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert sweeps.run(out, *CONSTANT, "--config.train.epochs=2").code == 0
    longer = sweeps.run(out, *CONSTANT, "--config.train.epochs=4")
    assert longer.code == 0 and "resumed at epoch 2\n" in longer.err, longer.err
    assert sweeps.run(whole, *CONSTANT, "--config.train.epochs=4").code == 0
    runs.assert_same(out, whole)
    shorter = sweeps.run(out, *CONSTANT, "--config.train.epochs=3")
    assert shorter.code == 2 and "train.epochs=4, now 3" in shorter.err


def test_more_epochs_under_a_schedule_are_refused_in_one_line(sweeps, whole, tmp_path):
    out = runs.copy(whole, tmp_path / "out")
    ended = sweeps.run(out, "--config.train.epochs=9")
    (line,) = ended.errors
    assert ended.code == 2 and "train.epochs=6 cannot become 9" in line
    assert "schedule=cosine" in line and "name a new --workdir" in line
    assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_epoch_too_long_to_wait_for_is_cut_off(sweeps, whole, tmp_path, epoch):
    out = tmp_path / "out"
    pid = sweeps.start(out, before=LONG.format(epoch=epoch))
    sweeps.said(pid, "compiling" if epoch == 1 else f"epoch {epoch - 1}/6")
    time.sleep(1)
    ended = terminate(sweeps, pid)
    assert ended.errors == [
        "error: SIGTERM, and the epoch takes too long to wait for; the same command resumes from "
        "the last checkpoint"
    ]
    assert sweeps.run(out).code == 0
    runs.assert_same(out, whole)
    runs.assert_clean(out, whole)
