"""The entries of a sweep file: names, what is missing, one tidy CSV. train.py is stood in for by
a script that leaves what train.py leaves."""

import csv
import json
import os
import sys

import pytest

import sweep
from configs import common

FAKE = """
import json, os, sys
flags = dict(f.lstrip("-").split("=", 1) for f in sys.argv[1:] if "=" in f)
folder = flags["workdir"]
with open(os.path.join(os.path.dirname(folder), "log"), "a") as f:
    f.write(json.dumps(flags) + "\\n")
if flags.get("config.data.pack") == "nowhere":
    sys.exit(2)
os.makedirs(os.path.join(folder, "model"), exist_ok=True)
diverges = flags.get("config.train.learning_rate") == "9.0"
with open(os.path.join(folder, "status.json"), "w") as f:
    json.dump({"complete": not diverges, "seconds": 1.0}, f)
if diverges:
    sys.exit(2)
header = "corpus,system,variant,protocol,fold,seed,condition,n,war,uar,macro_f1,rec_error"
variant = flags["config"].partition(":")[2] or "default"
rows = [f'c,cmarr,"{variant}",p,{fold},0,{c},9,0.5,0.5,0.5,' for fold in (1, 2) for c in ("t", "st")]
with open(os.path.join(folder, "results.csv"), "w") as f:
    f.write("\\n".join([header, *rows]) + "\\n")
with open(os.path.join(folder, "model", "model.json"), "w") as f:
    json.dump({"runs": [{"fold": k, "seed": 0, "val_uar": k / 4} for k in (1, 2)]}, f)
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command on a sweep file's body; returns code, output and what was trained."""
    (tmp_path / "train.py").write_text(FAKE)
    monkeypatch.setattr(sweep, "_TRAIN", str(tmp_path / "train.py"))
    out = tmp_path / "out"

    def run(body, *flags, config="configs/demo.py"):
        (tmp_path / "file.py").write_text("def sweep(add):\n" + body)
        log = out / "log"
        log.unlink(missing_ok=True)
        argv = [str(tmp_path / "file.py"), f"--config={config}", f"--workdir={out}", *flags]
        try:
            code = sweep.main(argv)
        except SystemExit as e:
            code = e.code
        trained = [json.loads(x) for x in log.read_text().splitlines()] if log.exists() else []
        return code, capsys.readouterr().err, trained

    run.out = out
    return run


def tidy(out):
    with open(out / "sweep.csv", newline="") as f:
        return list(csv.DictReader(f))


def test_it_trains_what_is_missing_and_collects_all(command):
    one = "    add(**{'train.learning_rate': 1e-3, 'train.betas': (1, 2)})\n"
    code, _, trained = command(one, "--config.seed=3", config="configs/demo.py:pooled")
    assert code == 0 and len(trained) == 1
    assert trained[0]["config"] == "configs/demo.py:pooled"
    assert trained[0]["config.train.learning_rate"] == "0.001"
    assert trained[0]["config.train.betas"] == "(1,2)" and trained[0]["config.seed"] == "3"
    more = one + "    add('no_udcl', **{'train.learning_rate': 0.1})\n"
    code, _, trained = command(more, "--config.seed=3", config="configs/demo.py:pooled")
    assert code == 0
    assert [t["config"] for t in trained] == ["configs/demo.py:pooled,no_udcl"]
    rows = tidy(command.out)
    assert len(rows) == 2 * 2 * 2
    assert list(rows[0])[:4] == ["entry", "argument", "train.learning_rate", "train.betas"]
    assert [r["val_uar"] for r in rows[:4]] == ["0.250000"] * 2 + ["0.500000"] * 2
    assert rows[4]["entry"] == "no_udcl,train.learning_rate=0.1" and rows[4]["train.betas"] == ""
    code, _, trained = command(more, "--config.seed=3", config="configs/demo.py:pooled")
    assert code == 0 and trained == [] and tidy(command.out) == rows


def test_an_entry_that_fails_does_not_stop_the_others(command):
    body = "    for rate in (0.1, 9.0, 0.2):\n        add(**{'train.learning_rate': rate})\n"
    code, err, trained = command(body)
    assert code == 3 and len(trained) == 3
    assert "error: no results of train.learning_rate=9.0" in err
    assert {r["train.learning_rate"] for r in tidy(command.out)} == {"0.1", "0.2"}
    _, _, trained = command(body)
    assert [t["config.train.learning_rate"] for t in trained] == ["9.0"]


def test_arguments_make_a_table_that_evaluate_reads(command):
    code, _, _ = command("    add('alpha=0.1')\n    add('alpha=0.5')\n")
    assert code == 0
    with open(command.out / "summary.csv", newline="") as f:
        assert {r["variant"] for r in csv.DictReader(f)} == {"alpha=0.1", "alpha=0.5"}
    assert json.loads((command.out / "status.json").read_text())["complete"]


def test_a_mistake_in_the_flags_stops_at_the_first_entry(command):
    body = "    add('alpha=0.1')\n    add('alpha=0.5')\n"
    code, _, trained = command(body, "--config.data.pack=nowhere")
    assert code == 2 and len(trained) == 1


def test_other_flags_want_another_folder(command):
    body = "    add('alpha=0.1')\n"
    assert command(body, "--config.seed=1")[0] == 0
    code, err, trained = command(body, "--config.seed=2")
    assert code == 2 and trained == [] and "name a new --workdir" in err


def test_a_dry_run_leaves_nothing(command, monkeypatch):
    seen = []
    fake = type("Done", (), {"returncode": 0})
    monkeypatch.setattr(sweep.subprocess, "run", lambda c, **_: seen.append(c) or fake)
    code, _, _ = command("    add('alpha=0.1')\n    add()\n", "--dry-run")
    assert code == 0 and not command.out.exists()
    assert [c[0] for c in seen] == [sys.executable] * 2 and all("--dry-run" in c for c in seen)
    assert seen[1][-1].endswith("default")


@pytest.mark.parametrize(
    "body, message",
    [
        ("    pass\n", "adds no entry"),
        ("    add('a')\n    add('a')\n", "'a' is added twice"),
        ("    add('../a')\n", "cannot hold '/'"),
        ("    ad('a')\n", "NameError"),
    ],
)
def test_a_wrong_file_is_one_line(command, body, message):
    code, err, trained = command(body)
    assert code == 2 and trained == [] and not command.out.exists()
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line


def test_every_sweep_file_of_the_project_is_one():
    folder = os.path.join(os.path.dirname(sweep.__file__), "configs", "sweeps")
    names = [n for n in sorted(os.listdir(folder)) if n.endswith(".py") and n != "__init__.py"]
    entries = {n: sweep.read(os.path.join(folder, n)) for n in names}
    assert [e.argument for e in entries["fig4.py"]] == list(common.TABLES["fig4"])
    for found in entries.values():
        for entry in found:
            config = common.with_variants(common.get_config(), entry.argument)
            config.update_from_flattened_dict(entry.fields)
    assert len(names) > 1
