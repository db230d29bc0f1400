"""The commands of data and extraction end in one line, whatever happens below them."""

import os
import subprocess
import sys

import numpy as np
import pytest

from cmarr_jax.data import demo, dialogue
from cmarr_jax.data.importers import __main__ as importers
from cmarr_jax.extract import __main__ as extract
from cmarr_jax.extract import denseface
from cmarr_jax.runtime import exits
from tests.extract import releases

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMANDS = {
    "importers": (importers, ["mmsa", "--file", "x", "--out", "y"]),
    "extract": (extract, ["iemocap", "--root", "x"]),
    "dialogue": (dialogue, ["x", "y"]),
    "demo": (demo, ["x"]),
    "denseface": (denseface, ["x", "y", "--mean=1", "--std=1"]),
}
ERRORS = [
    (ZeroDivisionError("injected"), exits.FAULT, "ZeroDivisionError: injected"),
    (RuntimeError("of a library\nin two lines"), exits.FAULT, "of a library in two lines"),
    (PermissionError(13, "Permission denied", "a/b"), exits.MISTAKE, "a/b"),
    (MemoryError(), exits.MISTAKE, "out of memory"),
    (KeyboardInterrupt(), exits.INTERRUPTED, "interrupted"),
    (BrokenPipeError(), exits.DONE, ""),
]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("error, code, line", ERRORS)
def test_any_exception_is_one_line(capfd, monkeypatch, name, error, code, line):
    module, arguments = COMMANDS[name]

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(module, "_extract" if module is extract else "_run", broken)
    assert module.main(arguments) == code
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err and line in err
    assert len(err.strip().splitlines()) == bool(line)


@pytest.fixture
def release(tmp_path):
    return releases.iemocap(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["importers", "extract", "demo"])
def test_a_closed_pipe_is_no_traceback(tmp_path, release, name):
    (tmp_path / "u.csv").write_text("id,session,speaker,label\nu,1,1,a\nv,2,2,b\n")
    np.savez(tmp_path / "f.npz", u=np.ones(2), v=np.ones(2))
    arguments = {
        "importers": ["data.importers", "csv", "--utterances=u.csv", "--text=f.npz", "--out=p"],
        "extract": ["extract", "iemocap", "--root", release, "--list"],
        "demo": ["data.demo", "d"],
    }[name]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", f"cmarr_jax.{arguments[0]}", *arguments[1:]],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": ROOT}, stdout=write, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
