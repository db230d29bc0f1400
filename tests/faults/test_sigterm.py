"""SIGTERM, which a Cloud TPU gets before it is taken away: saved, and gone within 10 s."""

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
