"""What the code never does, by lint and watched while it runs."""

import csv
import glob
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from cmarr_jax.data import protocol
from cmarr_jax.data.importers import stores
from cmarr_jax.errors import UserError
from cmarr_jax.results.rows import write_results
from cmarr_jax.training import evaluation
from tests.cli.test_flags import ROOT, SMALL
from tests.conftest import write_pack

LIBRARY = ("cmarr_jax", "configs", "train.py", "evaluate.py")
FORBIDDEN = """
import pickle
import cPickle
import _pickle
import dill
import cloudpickle
import joblib
import marshal
import shelve
import yaml
import subprocess
import ctypes
import socket
import urllib.request
from http import client
import requests
import httpx
import ftplib
import ssl
import torch
import huggingface_hub
from pickle import loads
from tempfile import mktemp
import tempfile; tempfile.mktemp()
eval("")
exec("")
breakpoint()
import os; os.system("")
os.popen("")
os.spawnv(0, "", [])
os.execv("", [])
os.fork()
from urllib.request import urlopen
run(shell=True)
import tarfile; tarfile.open("x").extractall()
"""


def lint(*arguments, folder=ROOT):
    """(file, line, rule) of everything that the rules against running data have to say."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select=S,T100,TID251",
        "--output-format=json",
    ]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return {
        (os.path.relpath(found["filename"], folder), found["location"]["row"], found["code"])
        for found in json.loads(done.stdout)
    }


def test_lint_refuses_what_runs_data_opens_a_shell_or_a_connection(tmp_path):
    shutil.copy(os.path.join(ROOT, "pyproject.toml"), tmp_path)
    (tmp_path / "cmarr_jax").mkdir()
    (tmp_path / "cmarr_jax/x.py").write_text(FORBIDDEN)
    found = {line for _, line, _ in lint("--no-cache", folder=tmp_path)}
    lines = FORBIDDEN.splitlines()
    assert [lines[k - 1] for k in range(2, len(lines) + 1) if k not in found] == []


def test_lint_is_told_to_look_away_in_two_modules_alone():
    """The restricted unpickler, and the download of a model that was given by its name."""
    everywhere = ("--ignore-noqa", "--config=lint.per-file-ignores={}", "--ignore=S101")
    assert {(file, rule) for file, _, rule in lint(*everywhere, *LIBRARY)} == {
        ("cmarr_jax/data/importers/pickles.py", "TID251"),
        ("cmarr_jax/extract/hub.py", "TID251"),
    }


def test_what_lint_cannot_see():
    """Keyword arguments, methods of whatever object, and some of Python's own functions."""
    pattern = re.compile(
        r"\b(shell|trust_remote_code|allow_pickle)\s*=(?!\s*False\b)"
        r"|(?<![.\w])(?<!def )(compile|__import__|input)\("
        r"|\.(system|popen|spawnv|execv|fork|extractall|urlopen)\("
    )
    for top in LIBRARY:
        for file in glob.glob(os.path.join(ROOT, top, "**/*.py"), recursive=True) or [top]:
            with open(os.path.join(ROOT, file), encoding="utf-8") as f:
                assert not (found := pattern.search(f.read())), (file, found)


OFFLINE = """
import os, socket, sys

def refuse(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.gethostbyname":
        raise SystemExit(f"NETWORK {event} {arguments}")
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        raise SystemExit(f"NETWORK {event} {arguments[1]}")
    # Of Python's platform, and of joblib, which counts the cores.
    harmless = event == "subprocess.Popen" and arguments[0] in ("uname", "lscpu")
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn") and not harmless:
        raise SystemExit(f"PROCESS {event} {arguments}")

sys.addaudithook(refuse)
"""


@pytest.mark.faults
def test_a_sweep_opens_no_connection_and_starts_no_process(tmp_path):
    """By the default loader, so TensorFlow Datasets too. Python's own calls are watched; what C++
    opens by itself is not seen here.
    """
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    write_pack(tmp_path / "pack", sessions=2)
    flags = [f for f in SMALL if "loader" not in f]
    flags += [f"--config.data.pack={tmp_path / 'pack'}", f"--workdir={tmp_path / 'out'}"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    probe = [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"]
    watched = subprocess.run(probe, env=environment, capture_output=True, text=True)
    assert "NETWORK" in watched.stderr  # the watch works
    result = subprocess.run(
        [sys.executable, "train.py", *flags], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "audit.json").exists()


HOSTILE = [
    "../../x", "/etc/passwd", "a/b\\c", "~/x", "$(touch x)", "`id`", "; rm -rf x", "x\u202ey", "%s%n",
    "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1,1)", 'q"u,o;t', "naïve 話者", "CON", "{0.__class__}",
]  # fmt: skip


def test_hostile_ids_stay_text_in_the_results_and_make_no_file(tmp_path):
    """predictions.csv holds ids as they are: a script finds its rows again. See SECURITY.md."""
    num, names = len(HOSTILE), ("=a", "b,c")
    corpus = types.SimpleNamespace(
        columns={"id": np.array(HOSTILE), "speaker": np.array(HOSTILE)},
        labels=np.arange(num) % 2,
        class_names=names,
        modalities=("text",),
    )
    conditions = protocol.make_conditions(("text",))
    posteriors = np.full((1, num, 2), 0.5, np.float32)
    scored = evaluation.Scored(
        np.arange(num), posteriors, np.zeros((1, num, 1, 2)), np.ones((1, num), bool)
    )
    fold = protocol.Fold(1, "session ../x", *[np.arange(num)] * 3)
    work = tmp_path / "a" / "work"
    os.makedirs(work)
    write_results(
        str(work),
        identity={"corpus": "=1+1", "system": "x", "variant": "y", "protocol": "z"},
        corpus=corpus,
        conditions=conditions,
        curves=[],
        run_ids=[(fold, 0)],
        scored=[scored],
    )
    with open(work / "predictions.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [row["id"] for row in rows] == [row["speaker"] for row in rows] == HOSTILE
    assert {row["label"] for row in rows} == set(names)
    assert set(os.listdir(work)) == {
        "results.csv",
        "summary.csv",
        "predictions.csv",
        "confusion.npz",
    }
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["work"]


def test_an_archives_members_never_become_files(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, 3), "f4"))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as z:
        z.writestr("../../escape.npy", buffer.getvalue())
        z.writestr("/absolute.npy", buffer.getvalue())
    monkeypatch.chdir(tmp_path)
    store = stores.open_store("x.npz")
    assert sorted(store.ids) == ["../../escape", "/absolute"]
    np.testing.assert_array_equal(store.read("../../escape"), np.ones((2, 3)))
    assert os.listdir(tmp_path) == ["x.npz"]


def test_an_id_reads_nothing_beside_its_folder(tmp_path):
    """Ids are looked up among the names that are there, never joined to a path."""
    os.mkdir(tmp_path / "features")
    np.save(tmp_path / "secret.npy", np.ones((1, 2), "f4"))
    np.save(tmp_path / "features" / "u1.npy", np.ones((1, 2), "f4"))
    store = stores.open_store(str(tmp_path / "features"))
    assert store.ids == {"u1"}
    with pytest.raises(KeyError):
        store.read("../secret")


@pytest.mark.parametrize("cut", [10, 60, 150, 250])
def test_a_damaged_archive_is_one_line(tmp_path, cut):
    np.savez(tmp_path / "x.npz", u=np.arange(40, dtype="f4").reshape(2, 20))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[cut] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    refusal = "x.npz"
    try:
        store = stores.open_store(str(tmp_path / "x.npz"))
        for i in store.ids:
            store.read(i)
    except UserError as e:
        refusal = str(e)
    assert "\n" not in refusal and "x.npz" in refusal
