"""What the code never does, looked up in its syntax and watched while it runs."""

import ast
import csv
import io
import os
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

MODULES = sorted(
    os.path.join(parent, f)
    for top in ("cmarr_jax", "configs")
    for parent, _, files in os.walk(os.path.join(ROOT, top))
    for f in files
    if f.endswith(".py")
) + [os.path.join(ROOT, f) for f in ("train.py", "evaluate.py")]
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml",
    "subprocess", "ctypes", "socket", "urllib", "http", "requests", "httpx", "ftplib", "ssl",
    "tempfile.mktemp", "torch",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
FORBIDDEN_METHODS = {"system", "popen", "spawnv", "execv", "fork", "extractall", "urlopen"}
# The restricted unpickler; the download of a model that was given by its name.
ALLOWED = {("importers/pickles.py", "pickle"), ("extract/pretrained.py", "huggingface_hub")}


@pytest.mark.parametrize("file", MODULES, ids=lambda f: os.path.relpath(f, ROOT))
def test_no_module_runs_data_opens_a_shell_or_a_connection(file):
    with open(file, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [
            f"imports {n}"
            for n in names
            if n.split(".")[0] in FORBIDDEN_MODULES | {"huggingface_hub"}
            and not any(file.endswith(end) and n == name for end, name in ALLOWED)
        ]
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in FORBIDDEN_CALLS:
                found.append(f"calls {called.id}")
            if isinstance(called, ast.Attribute) and called.attr in FORBIDDEN_METHODS:
                found.append(f"calls .{called.attr}")
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle":
                    assert keyword.value.value is False, ast.unparse(node)
                if keyword.arg in ("shell", "trust_remote_code"):
                    found.append(f"gives {keyword.arg}")
    assert not found


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
    opens by itself is not seen here."""
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
        columns={"id": np.array(HOSTILE)},
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
    assert [row["id"] for row in rows] == HOSTILE
    assert {row["label"] for row in rows} == set(names)
    assert set(os.listdir(work)) == {
        "results.csv", "summary.csv", "predictions.csv", "confusion.npz",
    }  # fmt: skip
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
    try:
        store = stores.open_store(str(tmp_path / "x.npz"))
        for i in store.ids:
            store.read(i)
    except UserError as e:
        assert "\n" not in str(e) and "x.npz" in str(e)
