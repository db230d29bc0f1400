"""Small sweeps as a user starts them, to be disturbed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from cmarr_jax.workdir.checkpoints import Checkpoints
from tests.faults.server import ROOT

FLAGS = [
    "--config.data.loader=numpy",
    "--config.data.length=2",
    "--config.checkpoint_seconds=0",
    "--config.train.epochs=6",
    "--config.train.batch_size=8",
    "--config.train.eval_batch_size=16",
    "--config.model.width=16",
]


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float

    @property
    def errors(self):
        """The lines that a user reads as errors; a traceback counts as one."""
        return [x for x in self.err.splitlines() if x.startswith(("error: ", "Traceback"))]


class Sweeps:
    """Starts sweeps over one pack through a `server`."""

    def __init__(self, folder, pack, cache):
        self.folder, self.pack = folder, pack
        env = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._lock, self._started = threading.Lock(), {}

    def close(self):
        self._server.kill()
        self._server.wait()

    def flags(self, workdir, *more, system="full_modality"):
        given = {flag.split("=")[0] for flag in more}
        flags = [f"--config=configs/demo.py:{system}", f"--config.data.pack={self.pack}", *FLAGS]
        flags = [flag for flag in flags if flag.split("=")[0] not in given]
        return [*flags, f"--workdir={workdir}", *more]

    def start(self, workdir, *more, script="train.py", before="", system="full_modality"):
        """Starts a command; returns its process id."""
        if script == "train.py":
            more = self.flags(workdir, *more, system=system)
        else:
            more = [f"--workdir={workdir}", *more]
        number = len(self._started)
        out, err = self.folder / f"out{number}", self.folder / f"err{number}"
        for file in (out, err):
            file.touch()
        command = {"start": [script, *more], "out": str(out), "err": str(err), "before": before}
        pid = self._ask(command)
        self._started[pid] = out, err, time.monotonic()
        return pid

    def wait(self, pid):
        code = self._ask({"wait": pid})
        out, err, start = self._started[pid]
        return Ended(code, out.read_text(), err.read_text(), time.monotonic() - start)

    def run(self, workdir, *more, **fields):
        return self.wait(self.start(workdir, *more, **fields))

    def said(self, pid, text, seconds=200):
        """Waits until the command has written `text` to standard error."""
        until = time.monotonic() + seconds
        while text not in self._started[pid][1].read_text():
            assert time.monotonic() < until, self._started[pid][1].read_text()
            time.sleep(0.01)

    def kill_at(self, text, workdir, *more, **fields):
        """Starts a command and kills it once it has written `text`; its process id and its end."""
        pid = self.start(workdir, *more, **fields)
        self.said(pid, text)
        os.kill(pid, signal.SIGKILL)
        return pid, self.wait(pid)

    def kill_after(self, seconds, pid):
        """Kills a running command once it has used so many CPU seconds; or has ended before."""
        while (used := self.cpu_seconds(pid)) is not None and used < seconds:
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)

    def cpu_seconds(self, pid):
        """CPU time of the running command: a clock that other work on the machine cannot hurry."""
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return None if fields[0] == "Z" else (int(fields[11]) + int(fields[12])) / _TICKS

    def _ask(self, command):
        with self._lock:
            print(json.dumps(command), file=self._server.stdin, flush=True)
            return json.loads(self._server.stdout.readline())


def leaves(workdir, kind="last"):
    """The arrays of the newest checkpoint, read as they are."""
    stage, _, name = kind.rpartition("_")
    epoch = Checkpoints(str(workdir)).latest_epoch(stage, name)
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        path = Path(workdir).resolve() / "checkpoints" / kind / str(epoch)
        state = reader.restore(path, args=args).state
    return epoch, [np.asarray(x) for x in jax.tree.leaves(state)]


_TICKS = os.sysconf("SC_CLK_TCK")
RESULTS = ("results.csv", "summary.csv", "predictions.csv")


def assert_same(workdir, whole):
    """Both sweeps ended with the same bits: parameters, results, predictions."""
    for name in RESULTS:
        assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name
    for a, b in zip(
        np.load(workdir / "confusion.npz").values(),
        np.load(whole / "confusion.npz").values(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    kinds = sorted(os.listdir(whole / "checkpoints"))
    assert sorted(os.listdir(workdir / "checkpoints")) == kinds
    for kind in kinds:
        (epoch, ours), (wanted, theirs) = leaves(workdir, kind), leaves(whole, kind)
        assert epoch == wanted
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def assert_clean(workdir, whole):
    """Nothing that a killed process began is left: the same files as of the undisturbed sweep."""

    def names(folder):
        found = {str(p.relative_to(folder)) for p in folder.iterdir()}
        for kind in (folder / "checkpoints").iterdir():
            found |= {str(p.relative_to(folder)) for p in kind.iterdir()}
        return found

    differing = names(workdir) ^ names(whole)
    assert not differing, differing


def copy(workdir, to):
    return Path(shutil.copytree(workdir, to))
