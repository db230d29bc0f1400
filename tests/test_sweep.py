"""The entries of a sweep file: names, what is missing, one tidy CSV. train.py is stood in for by
a script that leaves what train.py leaves.
"""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import FrozenConfigDict

import sweep
from cmarr_jax.config import leaves
from cmarr_jax.experiment import groups, run
from cmarr_jax.results import folder, ranking
from cmarr_jax.systems import SYSTEMS
from configs import common, systems
from tests.conftest import write_pack

TUNING = os.path.join(os.path.dirname(sweep.__file__), "configs", "sweeps", "tuning.py")

FAKE = """
import ast, json, os, sys
flags = dict(f.lstrip("-").split("=", 1) for f in sys.argv[1:] if "=" in f)
workdir, argument = flags["workdir"], flags["config"].partition(":")[2]
if flags.get("config.data.pack") == "nowhere":
    sys.exit(2)
members = ast.literal_eval(flags.get("config.members", "()"))
folders = [(os.path.join(workdir, name), own) for name, own in members] or [(workdir, argument)]
stopped = False
for folder, argument in folders:
    if os.path.exists(os.path.join(folder, "status.json")):
        continue
    with open(os.environ["LOG"], "a") as f:
        f.write(json.dumps(flags | {"argument": argument, "alone": not members}) + "\\n")
    if "learning_rate=9.0" in argument:
        os.abort()
    if "learning_rate=7.0" in argument and not os.path.exists(os.environ["LOG"] + "killed"):
        open(os.environ["LOG"] + "killed", "w").close()
        sys.exit(143)
    os.makedirs(os.path.join(folder, "model"))
    diverges = "learning_rate=8.0" in argument
    stopped |= diverges
    status = {"complete": not diverges, "seconds": 1.0}
    with open(os.path.join(folder, "status.json"), "w") as f:
        json.dump(status | ({"stopped": [{}]} if diverges else {}), f)
    header = "corpus,system,variant,protocol,fold,seed,condition,n,war,uar,macro_f1,rec_error"
    keys = [(fold, c) for fold in (1, 2) for c in ("t", "st")]
    rows = [f'c,cmarr,"{argument}",p,{fold},0,{c},9,0.5,0.5,0.5,' for fold, c in keys]
    if diverges:
        continue
    with open(os.path.join(folder, "results.csv"), "w") as f:
        f.write("\\n".join([header, *rows]) + "\\n")
    with open(os.path.join(folder, "model", "model.json"), "w") as f:
        uar = 0.25 if "no_udcl" in argument else 0.5
        json.dump({"runs": [{"fold": k, "seed": 0, "val_uar": k / 2 * uar} for k in (1, 2)]}, f)
sys.exit(3 if stopped else 0)
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command on a sweep file's body; returns code, output and what was trained."""
    (tmp_path / "train.py").write_text(FAKE)
    monkeypatch.setattr(sweep, "_TRAIN", str(tmp_path / "train.py"))
    out = tmp_path / "out"

    def run(body, *flags, config="configs/demo.py", workdir=out):
        (tmp_path / "file.py").write_text("def sweep(add):\n" + body)
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        monkeypatch.setenv("LOG", str(log))
        argv = [str(tmp_path / "file.py"), f"--config={config}", *flags]
        argv += [f"--workdir={workdir}"] if workdir else []
        try:
            code = sweep.main(argv)
        except SystemExit as e:
            code = e.code
        trained = [json.loads(x) for x in log.read_text().splitlines()] if log.exists() else []
        run.said, err = capsys.readouterr()
        return code, err, trained

    run.out = out
    return run


def tidy(out):
    with open(out / "sweep.csv", newline="") as f:
        return list(csv.DictReader(f))


def test_it_trains_what_is_missing_and_collects_all(command):
    one = "    add(**{'train.learning_rate': 1e-3, 'train.betas': (1, 2)})\n"
    code, _, trained = command(one, "--config.seed=3", config="configs/demo.py:pooled")
    assert code == 0 and len(trained) == 1
    assert trained[0]["config"] == "configs/demo.py:pooled" and trained[0]["config.seed"] == "3"
    assert trained[0]["argument"] == "pooled,train.learning_rate=0.001,train.betas=(1,2)"
    more = one + "    add('no_udcl', **{'train.learning_rate': 0.1})\n"
    code, _, trained = command(more, "--config.seed=3", config="configs/demo.py:pooled")
    assert code == 0
    assert [t["argument"] for t in trained] == ["pooled,no_udcl,train.learning_rate=0.1"]
    rows = tidy(command.out)
    assert len(rows) == 2 * 2 * 2
    assert list(rows[0])[:4] == ["entry", "argument", "train.learning_rate", "train.betas"]
    assert [r["val_uar"] for r in rows[:4]] == ["0.250000"] * 2 + ["0.500000"] * 2
    assert rows[4]["entry"] == "no_udcl,train.learning_rate=0.1" and rows[4]["train.betas"] == ""
    code, _, trained = command(more, "--config.seed=3", config="configs/demo.py:pooled")
    assert code == 0 and trained == [] and tidy(command.out) == rows


def test_it_ends_with_the_ranking_by_validation_and_the_test_scores_of_the_first_alone(command):
    """The entry that validation likes less has better test scores."""
    body = "    add('no_udcl')\n    add('no_spcl')\n"
    code, _, _ = command(body)
    assert code == 0
    ranks = [line.split() for line in command.said.splitlines() if line[:5].strip().isdigit()]
    assert [(r[0], r[1], r[2]) for r in ranks] == [
        ("1", "no_spcl", "37.50"),
        ("2", "no_udcl", "18.75"),
    ]
    assert "Test scores of the chosen entry, no_spcl:" in command.said
    assert "w/o SPCL" in command.said and "w/o UDCL" not in command.said
    assert (command.out / "ranking.png").stat().st_size > 5000
    assert (command.out / "ranking.pdf").exists()
    code, _, _ = command(body, "--all-test-scores")
    assert code == 0 and "w/o UDCL" in command.said and "w/o SPCL" in command.said
    assert command.said.index("w/o SPCL") < command.said.index("to report and not to choose by")


def test_entries_that_lack_runs_or_validation_are_no_winners():
    ranked = ranking.rank({"a": {(1, 0): 0.9}, "b": {(1, 0): 0.5, (2, 0): 0.6}, "c": {}})
    assert [(r.name, r.lacks) for r in ranked] == [("b", 0), ("a", 1)]
    assert "1 stopped" in ranking.table(ranked).splitlines()[-1]
    assert ranking.rank({"c": {}}) == []


def test_without_a_workdir_it_has_a_folder_of_its_own(command, monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "_run", lambda *given: seen.append(given[2]) or 0)
    code, _, _ = command("    add()\n", workdir=None, config="configs/iemocap.py:pooled")
    assert code == 0 and seen == ["results/iemocap-pooled-file"]


def rates(*values):
    return "".join(f"    add(**{{'train.learning_rate': {value}}})\n" for value in values)


def test_an_entry_that_diverges_does_not_stop_the_others(command):
    code, _, trained = command(rates(0.1, 8.0, 0.2))
    assert code == 3 and len(trained) == 3 and not any(t["alone"] for t in trained)
    assert {r["train.learning_rate"] for r in tidy(command.out)} == {"0.1", "0.2"}


def test_an_entry_that_kills_its_process_does_not_stop_the_others(command):
    code, err, trained = command(rates(0.1, 9.0, 0.2))
    assert code == 3
    tried = [(t["argument"].split("=")[1], t["alone"]) for t in trained]
    assert tried == [("0.1", False), ("9.0", False), ("9.0", True), ("0.2", True)]
    assert "error: no results of train.learning_rate=9.0" in err
    assert {r["train.learning_rate"] for r in tidy(command.out)} == {"0.1", "0.2"}


def test_a_mistake_in_the_flags_stops_it(command):
    code, _, trained = command(rates(0.1, 0.2), "--config.data.pack=nowhere")
    assert code == 2 and not trained and not command.out.exists()


def test_a_field_of_the_entries_is_no_flag_too(command):
    code, err, trained = command(rates(0.1), "--config.train.learning_rate=0.2")
    assert code == 2 and not trained and "--config.train.learning_rate: the sweep's entries" in err


def test_a_dry_run_leaves_nothing(command, monkeypatch):
    seen = []
    fake = type("Done", (), {"returncode": 0})
    monkeypatch.setattr(sweep.subprocess, "run", lambda c, **_: seen.append(c) or fake)
    code, _, _ = command("    add('alpha=0.1')\n    add()\n", "--dry-run")
    assert code == 0 and not command.out.exists()
    (one,) = seen
    assert one[0] == sys.executable and "--dry-run" in one
    assert one[2] == "--config=configs/demo.py"  # absl wants it before the fields
    assert "--config.members=(('alpha=0.1', 'alpha=0.1'), ('default', ''))" in one


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
    entries = {n: sweep.read(os.path.join(folder, n), "configs/iemocap.py") for n in names}
    assert [e.argument for e in entries["fig4.py"]] == list(common.TABLES["fig4"])
    pooled = sweep.read(os.path.join(folder, "fig4.py"), "configs/iemocap.py:pooled")
    assert {"alpha=0.03", "beta=0.1", "lambda=0.3"} <= {e.argument for e in pooled}
    for found in entries.values():
        for entry in found:
            common.with_variants(common.get_config(), entry.setting)
    assert len(names) > 1


TUNED_SYSTEMS = [*SYSTEMS, "pooled", *(f"pooled,{name}" for name in SYSTEMS if name != "cmarr")]
TUNED_SYSTEMS += [f"{name},published" for name in systems.PUBLISHED]


@pytest.mark.parametrize("argument", TUNED_SYSTEMS)
def test_every_system_is_tuned_by_eight_trials_of_its_own_fields(argument):
    def config_of(*more):
        c = common.with_variants(common.get_config(), ",".join((argument, *more)))
        run.check(c)
        with c.unlocked():
            c.variant = ""
        return c

    entries = sweep.read(TUNING, f"configs/iemocap.py:{argument}")
    own = config_of()
    known = dict(leaves(own.to_dict()))
    configs = [config_of(entry.setting) for entry in entries]
    assert len({e.name for e in entries}) == len({str(c) for c in configs}) == len(entries) == 8
    assert configs[0] == own and all(len(e.name) <= 46 for e in entries)
    assert {e.argument for e in entries} == {""}
    dropouts = {f for f in known if "dropout" in f and known[f] and "teacher" not in f}
    values = [{f: dict(leaves(c.to_dict()))[f] for f in known} for c in configs]
    changed = {f for f in known if len({str(v[f]) for v in values}) > 1}
    assert changed == {"train.learning_rate", "train.epochs", "train.averaging"} | dropouts
    assert dropouts, "a system without dropout has one factor less than the others"

    programs = [groups.program(c) for c in configs]
    assert programs[::2] == programs[1::2] and len(set(programs)) == 4
    for field in ("train.epochs", "train.averaging", min(dropouts)):
        changed_here = [v[field] != known[field] for v in values[::2]]
        assert sum(changed_here) == 2, field
    rates = [v["train.learning_rate"] / known["train.learning_rate"] for v in values]
    assert rates[::2] == [1.0] * 4
    averaged = [bool(v["train.averaging"]) for v in values[1::2]]
    np.testing.assert_allclose(rates[1::2], [3 if a else 1 / 3 for a in averaged], rtol=2e-3)
    stages = SYSTEMS[own.system](FrozenConfigDict(own.model), ("text", "speech"), 4).stages
    shared = {f"model.{name}" for stage in stages[:-1] for name in stage.depends} & changed
    assert bool(shared) == (own.system == "dicmor"), "other teachers are trained once"


def test_a_nested_choice_waits_until_every_trial_has_ended_and_goes_on_after_a_kill(
    command, monkeypatch
):
    seen = []

    def tune(workdir, entries, config):
        seen.append(([e.name for e in entries], workdir, config))
        return "TUNED"

    monkeypatch.setattr(sweep, "tune", tune)
    body = rates(0.1, 7.0, 0.2)
    code, _, trained = command(body, "--nested")
    assert code == 143 and not seen and len(trained) == 2 and "TUNED" not in command.said
    code, _, trained = command(body, "--nested")
    assert code == 0 and [t["argument"][-3:] for t in trained] == ["7.0", "0.2"]
    names = [f"train.learning_rate={rate}" for rate in ("0.1", "7.0", "0.2")]
    assert seen == [(names, str(command.out), "configs/demo.py")]
    assert "TUNED" in command.said and "Ranking by the validation part" in command.said
    assert "Test scores of the chosen entry" not in command.said
    code, err, _ = command(rates(0.1, 7.0, 0.2, 9.0), "--nested")
    assert code == 3 and len(seen) == 1 and "no results of train.learning_rate=9.0" in err
    assert "--nested: chooses when every entry has ended" in err


def test_a_trial_that_was_taken_out_of_the_file_still_counts(command):
    code, _, _ = command(rates(0.1, 0.2, 0.3))
    assert code == 0
    code, err, trained = command(rates(0.1, 0.2), "--nested")
    (line,) = err.splitlines()
    assert code == 2 and not trained and "learning_rate=0.3 was trained too" in line


def test_an_entry_has_the_name_that_the_file_gives_it(command):
    body = "    add('no_udcl', name='slow', **{'train.learning_rate': 1e-5})\n"
    code, _, trained = command(body)
    assert code == 0 and trained[0]["argument"] == "no_udcl,train.learning_rate=1e-05"
    assert (command.out / "slow" / "results.csv").exists() and tidy(command.out)[0][
        "entry"
    ] == "slow"


@pytest.mark.parametrize(
    "body, flag, message",
    [
        (rates(0.1), "--help-me=1", "adds one entry alone"),
        (rates(0.1) + "    add(name='tuned')\n", "--x=1", "an entry is named 'tuned'"),
        (rates(0.1, 0.2), "--config.protocol.select_on_test=True", "validates on the test part"),
        (rates(0.1, 0.2), "--config.protocol.select_on_test", "validates on the test part"),
        (rates(0.1, 0.2), "--config.protocol.validation=none", "leaves nothing to choose"),
    ],
)
def test_what_could_not_be_chosen_from_is_refused_before_it_is_trained(
    command, body, flag, message
):
    code, err, trained = command(body, "--nested", flag)
    assert code == 2 and not trained and not command.out.exists()
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line


@pytest.mark.slow
def test_two_trials_of_a_system_with_a_teacher_become_a_tuned_system(tmp_path):
    """From the commands to the table, on two tiny trials that share their teachers."""
    pack, out = write_pack(tmp_path / "pack", num=90).path, tmp_path / "out"
    (tmp_path / "two.py").write_text(
        "def sweep(add, config):\n"
        "    rate = config.train.learning_rate\n"
        "    add(name='own', **{'train.learning_rate': rate})\n"
        "    add(name='fast', **{'train.learning_rate': 30 * rate, 'model.dropout': 0.1})\n"
    )
    small = ["data.loader=numpy", "data.length=1", "model.width=8", "model.num_blocks=1"]
    small += [f"{s}.{x}" for s in ("train", "pretrain") for x in ("epochs=2", "batch_size=16")]
    flags = [f"--config.{field}" for field in (*small, f"data.pack={pack}", "num_seeds=2")]
    root = os.path.dirname(sweep.__file__)

    def run_script(script, *given):
        command = [sys.executable, os.path.join(root, script), *given]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)

    given = [str(tmp_path / "two.py"), "--config=configs/demo.py:mmin", f"--workdir={out}"]
    done = run_script("sweep.py", *given, "--nested", *flags)
    assert done.returncode == 0, done.stderr
    assert "2 trials, chosen in each fold by its own validation part:" in done.stdout
    assert len(os.listdir(out / "teachers")) == 3 * 2
    tuned = folder.load(str(out / "tuned"))
    assert len(tuned.runs) == 3 * 2 and tuned.identity["variant"] == "tuned"
    with open(out / "sweep.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    val = {(r["entry"], r["fold"], r["seed"]): float(r["val_uar"]) for r in rows}
    for fold in "123":
        means = {e: val[e, fold, "0"] + val[e, fold, "1"] for e in ("own", "fast")}
        assert tuned.status["chosen"][fold] == max(means, key=means.get)
    with open(out / "tuned" / "results.csv", newline="") as f:
        found = {(r["fold"], r["seed"], r["condition"]): r["war"] for r in csv.DictReader(f)}
    trials = {
        (r["fold"], r["seed"], r["condition"]): r["war"]
        for r in rows
        if r["entry"] == tuned.status["chosen"][r["fold"]]
    }
    assert found == trials and len(found) == 3 * 2 * 7
    again = run_script("sweep.py", *given, "--nested", *flags)
    assert again.returncode == 0 and again.stdout == done.stdout
    shutil.copytree(out / "tuned", tmp_path / "other")
    table = run_script(
        "evaluate.py", "--table=own", f"--workdir={out}/tuned", f"--workdir={tmp_path}/other"
    )
    assert table.returncode == 0, table.stderr
    assert "; 2 trials, chosen in each fold by validation. Variant: tuned." in table.stdout
    drawn = run_script("evaluate.py", f"--workdir={out}/tuned", "--figure=all", "--report")
    assert drawn.returncode == 0, drawn.stderr
    page = (out / "tuned" / "report.html").read_text(encoding="utf-8")
    assert "2 trials, chosen in each fold by validation" in page
    refused = run_script("evaluate.py", f"--workdir={out}/tuned", f"--workdir={tmp_path}/other")
    assert (
        refused.returncode == 2
        and "wanted beside --table=own or --figure=systems" in refused.stderr
    )
