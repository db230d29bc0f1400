"""Two processes on loopback train one sweep: the same results, one folder, from which they resume
when one of them is killed.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from cmarr_jax.results.rows import read_summary
from cmarr_jax.workdir.ownership import WorkDir
from tests import tiny
from tests.conftest import write_pack
from tests.faults import runs
from tests.faults.server import ROOT


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("processes") / "pack").path


def assert_same(workdir, whole):
    """Both have the same results to 1e-5."""
    ours, theirs = (read_summary(str(folder)) for folder in (workdir, whole))
    assert [row["condition"] for row in ours] == [row["condition"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("war", "uar", "macro_f1"):
            assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-5)


class Pair:
    """Starts commands of two processes that find each other."""

    def __init__(self, pack, folder, cache):
        self._pack, self._folder, self._cache, self._count = pack, folder, cache, 0

    def start(self, workdir, *flags, pack=None, number=2, system="full_modality"):
        """The processes, the first one first; one alone for `number` = 1."""
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        env = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        if number > 1:
            env |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(number),
            }
            flags = ("--distributed", *flags)
        started = []
        for k in range(number):
            line = [
                sys.executable, "train.py", f"--config=configs/demo.py:{system}", *runs.FLAGS,
                f"--config.data.pack={(pack or {}).get(k, self._pack)}", f"--workdir={workdir}", *flags,
            ]  # fmt: skip
            self._count += 1
            err = open(self._folder / f"err{self._count}", "w+")  # noqa: SIM115
            started.append(
                subprocess.Popen(
                    line, cwd=ROOT, env=env | {"JAX_PROCESS_ID": str(k)}, text=True,
                    stdout=subprocess.DEVNULL, stderr=err,
                )
            )  # fmt: skip
            started[-1].said = err
        return started

    def end(self, started):
        """Exit codes and what was said."""
        codes = [process.wait(timeout=280) for process in started]
        said = []
        for process in started:
            process.said.seek(0)
            said.append(process.said.read())
        return codes, said

    def run(self, *args, **fields):
        return self.end(self.start(*args, **fields))


@pytest.fixture(scope="module")
def pair(pack, tmp_path_factory):
    return Pair(pack, tmp_path_factory.mktemp("said"), tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(
    "system, flags",
    [
        # One run: the batch is cut over both.
        pytest.param("full_modality", ["--config.fold=1"], marks=pytest.mark.slow),
        pytest.param("full_modality", [], marks=pytest.mark.faults),  # three runs are dealt out
        pytest.param("mmin", ["--config.pretrain.batch_size=8"], marks=pytest.mark.faults),
    ],
    ids=["cut", "dealt", "teacher"],
)
def test_two_processes_leave_what_one_leaves(pair, tmp_path, system, flags):
    flags = [*flags, "--config.train.epochs=2"]
    if system == "mmin":
        flags.append("--config.pretrain.epochs=2")
    assert pair.run(tmp_path / "one", *flags, number=1, system=system)[0] == [0]
    codes, said = pair.run(tmp_path / "two", *flags, system=system)
    assert codes == [0, 0], said
    assert_same(tmp_path / "two", tmp_path / "one")
    assert "on 2 x cpu" in said[0] and "epoch" not in said[1]


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_of_a_killed_process_the_others_hear_and_the_folder_can_be_gone_on_from(
    pair, tmp_path, victim
):
    one, two = tmp_path / "one", tmp_path / "two"
    assert pair.run(one, number=1)[0] == [0]
    started = pair.start(two)
    while (
        len(WorkDir(str(two), tiny.config()).newest()) < 2
    ):  # "last" and "best", which are written beside the training
        assert started[0].poll() is None
        time.sleep(0.05)
    started[victim].send_signal(signal.SIGKILL)
    codes, said = pair.end(started)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] != 0 and not (two / "results.csv").exists(), said
    if victim == 1:
        assert "another process of this sweep is gone" in said[0]
        assert codes[0] == 4 and "Traceback" not in said[0]
    codes, said = pair.run(two)
    assert codes == [0, 0], said
    assert "epoch 1/" not in said[0]
    assert_same(two, one)


@pytest.mark.faults
def test_another_pack_in_one_process_ends_all(pair, tmp_path, tmp_path_factory):
    other = write_pack(tmp_path_factory.mktemp("other") / "pack", seed=5).path
    codes, said = pair.run(tmp_path / "two", pack={1: other})
    assert codes[1] == 2 and "not the pack that the first process reads" in said[1]
    assert codes[0] != 0 and not (tmp_path / "two/results.csv").exists()


def test_without_others_the_flag_says_what_is_missing(pair, tmp_path):
    (code,), (said,) = pair.run(tmp_path / "one", "--distributed", number=1)
    assert code == 2
    assert said.count("error:") == 1 and "set JAX_COORDINATOR_ADDRESS=HOST:PORT" in said
