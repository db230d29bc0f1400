"""Full and read-only disks, missing permission, a folder in use, a clock that jumps back."""

import contextlib
import json
import os
import signal
import stat
import subprocess

import pytest

from tests.faults import runs

pytestmark = pytest.mark.faults


@contextlib.contextmanager
def mounted(folder, kilobytes):
    """A small file system in memory, at `folder`."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True).returncode == 0:
            try:
                yield
            finally:
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
            return
    pytest.skip("file systems can be mounted by root alone")


def remount(folder, option):
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def size_of(folder):
    """What it takes on a disk of 4 KB blocks."""
    return sum(-(-p.stat().st_size // 4096) * 4 + 4 for p in folder.rglob("*"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.02])
def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(sweeps, whole, tmp_path, share):
    disk = tmp_path / "disk"
    with mounted(disk, max(8, int(share * size_of(whole)))):
        ended = sweeps.run(disk / "out")
        if ended.code:
            assert ended.code == 2 and len(ended.errors) == 1, ended.err
            assert "cannot be" in ended.errors[0] and str(disk) in ended.errors[0]
            assert "Traceback" not in ended.err
            remount(disk, "size=100m")
            ended = sweeps.run(disk / "out")
        assert ended.code == 0, ended.err
        runs.assert_same(disk / "out", whole)
        runs.assert_clean(disk / "out", whole)


def test_a_disk_that_turns_read_only_costs_one_line(sweeps, whole, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, 100_000):
        runs.copy(whole, disk / "done")
        pid = sweeps.start(disk / "out", before=PAUSE.format(epoch=3))
        sweeps.said(pid, "epoch 3/6")
        # No file may be open for writing: the lock and the curves are, so it is done by force.
        if subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode:
            os.kill(pid, signal.SIGKILL)
            sweeps.wait(pid)
            remount(disk, "ro")
        else:
            sweeps.wait(pid)
        ended = sweeps.run(disk / "out")
        assert ended.code == 2 and len(ended.errors) == 1, ended.err
        assert "Read-only file system" in ended.errors[0]
        for script in ("train.py", "evaluate.py"):  # what is done can be read
            table = sweeps.run(disk / "done", script=script)
            assert table.code == 0 and "full {s,v,t}" in table.out, table.err
        remount(disk, "rw")
        assert sweeps.run(disk / "out").code == 0
        runs.assert_same(disk / "out", whole)


# Root may do everything, so it becomes nobody first.
NOBODY = "import os; os.getuid() or (os.setgid(65534), os.setuid(65534))"


@pytest.fixture
def open_folder(sweeps, tmp_path):
    """A folder that everybody may enter, with all above it; the sweeps' pack may be read too."""
    changed = []
    for folder in (tmp_path, *tmp_path.parents, sweeps.folder):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            changed.append((folder, mode))
            folder.chmod(mode | stat.S_IXOTH | stat.S_IROTH)
    yield tmp_path
    for folder, mode in changed:
        folder.chmod(mode)


def test_without_permission_it_names_the_folder(sweeps, whole, open_folder):
    closed = open_folder / "closed"
    closed.mkdir(mode=0o555)
    ended = sweeps.run(closed / "out", before=NOBODY)
    assert ended.code == 2 and ended.errors[0].startswith(f"error: --workdir={closed}/out"), (
        ended.err
    )
    assert "Permission denied" in ended.errors[0] and not os.listdir(closed)
    done = runs.copy(whole, open_folder / "done")
    (done / "status.json").unlink()
    done.chmod(0o555)
    ended = sweeps.run(done, before=NOBODY)
    assert ended.code == 2 and "Permission denied" in ended.errors[0] and len(ended.errors) == 1


def test_a_checkpoint_that_may_not_be_read_is_no_damaged_one(sweeps, whole, open_folder):
    if os.getuid():
        pytest.skip("only root can give files to another user")
    out = runs.copy(whole, open_folder / "out")
    (out / "status.json").unlink()
    for path in (out, *out.rglob("*")):
        os.chown(path, 65534, 65534)
    for path in (out / "checkpoints/last/6").rglob("*"):
        if path.is_file():
            os.chown(path, 0, 0)
            path.chmod(0o600)
    ended = sweeps.run(out, before=NOBODY)
    assert ended.code == 2 and "no permission to read" in ended.errors[0], ended.err
    assert (out / "checkpoints/last/6").exists()


PAUSE = """
import time
from cmarr_jax.cli import progress
say = progress.Progress.epoch
def epoch(self, done):
    say(self, done)
    time.sleep(3 if done.number == {epoch} else 0)
progress.Progress.epoch = epoch
"""


def test_a_folder_in_use_is_refused_and_a_dead_runs_folder_is_taken_over(sweeps, whole, tmp_path):
    out = tmp_path / "out"
    pid = sweeps.start(out, before=PAUSE.format(epoch=2))
    sweeps.said(pid, "epoch 2/6")
    os.kill(pid, signal.SIGSTOP)  # it cannot end before the other has looked
    second = sweeps.run(out)
    assert second.code == 2 and len(second.errors) == 1
    assert f"process {pid} is at work there" in second.errors[0]
    os.kill(pid, signal.SIGCONT)
    first = sweeps.wait(pid)
    assert first.code == 0, first.err
    runs.assert_same(out, whole)
    runs.assert_clean(out, whole)

    pid, _ = sweeps.kill_at("epoch 2/6", tmp_path / "killed")
    assert json.loads((tmp_path / "killed/lock").read_text())["pid"] == pid
    assert sweeps.run(tmp_path / "killed").code == 0
    runs.assert_same(tmp_path / "killed", whole)


BACK = """
import time
real, calls = time.time, [0]
def back():
    calls[0] += 1
    return real() - (86400 if calls[0] > 40 else 0)
time.time = back
real_ns = time.time_ns
time.time_ns = lambda: real_ns() - 86400 * 10**9
"""


def test_a_clock_that_jumps_back_changes_nothing(sweeps, whole, tmp_path):
    out = tmp_path / "out"
    sweeps.kill_at("epoch 3/6", out)
    ended = sweeps.run(out, before=BACK)
    assert ended.code == 0, ended.err
    runs.assert_same(out, whole)
    runs.assert_clean(out, whole)
    assert 0 < json.loads((out / "status.json").read_text())["seconds"] < 3600
