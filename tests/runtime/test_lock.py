"""One living run a work directory; a dead one's lock is taken over."""

import json
import os
import platform
import subprocess
import sys

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.runtime.lock import locked

HOLD = "import sys; from cmarr_jax.runtime.lock import locked\nwith locked(sys.argv[1]):\n print('held', flush=True); input()"


@pytest.fixture
def holder(tmp_path):
    """A living process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_living_run_keeps_others_out_and_leaves_nothing(tmp_path, holder):
    for _ in range(2):  # being refused must not free it
        with (
            pytest.raises(UserError, match=f"process {holder.pid} is at work there"),
            locked(tmp_path),
        ):
            pass
    holder.communicate("\n")
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_a_killed_ones_lock_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert os.listdir(tmp_path) == ["lock"]
    with locked(tmp_path):
        pass


def note(folder, **fields):
    me = {"pid": os.getppid(), "host": platform.node(), "started": "boot 1"}
    (folder / "lock").write_text(json.dumps(me | fields))


def test_another_process_of_the_same_number_is_not_the_holder(tmp_path):
    note(tmp_path)
    with locked(tmp_path):
        pass


def test_without_the_kernels_lock_the_files_word_counts(tmp_path, holder, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(UserError, match=f"process {holder.pid} is at work"), locked(tmp_path):
        pass


def test_another_machines_lock_is_refused_with_the_remedy(tmp_path):
    note(tmp_path, host="elsewhere")
    match = f"on elsewhere is at work there; if that machine is gone, delete {tmp_path}/lock"
    with pytest.raises(UserError, match=match), locked(tmp_path):
        pass
    assert (tmp_path / "lock").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}'])
def test_a_lock_torn_by_a_kill_is_taken_over(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with locked(tmp_path):
        pass
