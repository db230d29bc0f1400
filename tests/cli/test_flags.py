"""The commands as a user types them: help, one-line errors, a whole sweep, resume, the table."""

import csv
import gc
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from cmarr_jax.cli import places
from cmarr_jax.errors import UserError
from cmarr_jax.experiment.table import check_members
from cmarr_jax.results.rows import join
from cmarr_jax.runtime.devices import prepare_to_compile
from configs import common
from tests.conftest import write_pack
from tests.results import results_folder

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SMALL = [
    "--config=configs/demo.py",
    "--config.data.loader=numpy",
    "--config.data.length=2",
    "--config.checkpoint_seconds=0",
    "--config.train.epochs=2",
    "--config.train.batch_size=8",
    "--config.train.eval_batch_size=16",
    "--config.model.width=16",
    "--config.model.umc.num_heads=2",
    "--config.model.fusion.num_heads=2",
    "--config.model.flow.num_couplings=2",
    "--config.model.rec.num_blocks=1",
]


def run(script, *flags):
    return subprocess.run(
        [sys.executable, script, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def read_csv(file):
    with open(file, newline="") as f:
        return list(csv.DictReader(f))


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_teaches(script):
    result = run(script, "--help")
    assert result.returncode == 0
    assert "--workdir" in result.stdout and f"python {script}" in result.stdout


MISTAKES = [
    (["train.py"], "--config: missing"),
    (["train.py", "--config=configs/nowhere.py"], "no such file"),
    (["train.py", "--config="], "--config=: no such file"),
    pytest.param(["train.py", "--config=configs/demo.py:no_such"], "variant 'no_such': wanted some of paper", marks=pytest.mark.slow),
    (["train.py", "--config=configs/demo.py", "--config.members=(('a','table2'),)", "--workdir=/tmp/x"], "'table2': a table is no member of another"),
    pytest.param(["train.py", "--config=configs/demo.py:poled"], "variant 'poled': no such one; did you mean 'pooled'?", marks=pytest.mark.slow),
    (["train.py", *SMALL, "--config.train.epoch=3"], "did you mean --config.train.epochs?"),
    (["train.py", *SMALL, "--config.train.lr=3"], "did you mean --config.train.learning_rate?"),
    (["train.py", *SMALL, "--config.train.epochs=many"], "train.epochs"),
    (["train.py", *SMALL, "--confg=3"], "confg"),
    (["train.py", *SMALL, "stray"], "stray: not a flag"),
    pytest.param(["train.py", *SMALL, "--config.data.pack=nowhere", "--workdir=/tmp/x"], "nowhere: no such folder", marks=pytest.mark.slow),
    (["train.py", *SMALL, "--config.system=mmin", "--workdir=/tmp/x"], "configs/iemocap.py:mmin"),
    (["train.py", "--config=configs/demo.py:mmin,cra"], "'mmin' and 'cra': wanted one system"),
    (["train.py", "--config=configs/demo.py:mmin,no_udcl"], "'no_udcl' is CM-ARR's"),
    (["train.py", "--config=configs/demo.py:alpha=x"], "'alpha=x': wanted a number"),
    (["train.py", "--config=configs/demo.py:table3", "--config.train.epochs=0", "--workdir=/tmp/x"], "train.epochs=0: wanted at least 1"),
    (["train.py", *SMALL, "--config.members=(('a','cmarr'))"], "'a' is no such pair; of a single one, mind the last comma"),
    (["train.py", *SMALL, "--config.members=(('a','cmarr'),('a','mmin'))"], "'a' names two"),
    (["train.py", *SMALL, "--config.members=a=cmarr"], "no such pair"),
    (["evaluate.py"], "--workdir: missing"),
    (["evaluate.py", "--config=configs/nowhere.py"], "no such file"),
    (["evaluate.py", "--workdir=/nowhere"], "holds no sweep"),
    (["evaluate.py", "--workdir=train.py"], "holds no sweep"),
    (["evaluate.py", "--workdir=x", "--format=latex"], "--format=latex: wanted beside --table"),
    (["evaluate.py", "--workdir=x", "--workdir=y"], "given 2 times; wanted beside --table=own or --figure=systems"),
    (["evaluate.py", "--workdir=x", "--workdir=y", "--figure=systems", "--report"], "--report: wanted one --workdir, found 2; give each folder by itself, or set them side by side with --table=own or --figure=systems"),
    (["evaluate.py", "--workdir=x", "--workdir=y", "--figure=systems"], "x/status.json: missing"),
    (["evaluate.py", "--table=own", "--workdir=x", "--workdir=y"], "x/status.json: missing"),
    (["evaluate.py", "--workdir=x", "--rows=systems"], "--rows=systems: wanted beside --table"),
]  # fmt: skip


@pytest.mark.parametrize(
    "command, message", MISTAKES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_mistake_is_one_line_and_exit_code_2(command, message):
    result = run(*command)
    assert result.returncode == 2, result.stderr
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert message in line
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "members, cause",
    [
        (("a", "cmarr"), "('base','cmarr'),)"),
        ((("a",),), "('a',) is no such pair"),
        (((1, "cmarr"),), "(1, 'cmarr') is no such pair"),
        ("a=cmarr", "wanted pairs of a name and an argument"),
        ((("a", "cmarr"), ("a", "augmented")), "'a' names two"),
        ((("a/b", "cmarr"),), "'a/b' cannot name a folder"),
        (((" ", "cmarr"),), "' ' cannot name a folder"),
        ((("results.csv", "cmarr"),), "'results.csv' is a file of every work directory"),
        ((("checkpoints", "cmarr"),), "'checkpoints' is a file of every work directory"),
    ],
)
def test_members_that_name_no_sweeps_are_one_line(members, cause):
    with pytest.raises(UserError) as error:
        check_members(members)
    assert cause in str(error.value) and str(error.value).startswith("--config.members")


def test_members_may_be_one_and_be_called_anything():
    check_members((("cmarr", "cmarr"),))
    check_members([["ours, with (all)", "cmarr"], ["β=0.5", ""]])
    check_members(())


@pytest.mark.slow
def test_the_config_alone_names_the_pack_and_the_work_directory(tmp_path):
    command = [sys.executable, f"{ROOT}/train.py", f"--config={ROOT}/configs/demo.py", *SMALL[1:]]
    where = {"cwd": tmp_path, "capture_output": True, "text": True}
    without = subprocess.run(command, **where)
    assert without.returncode == 2 and without.stderr.count("\n") == 1
    for making in ("cmarr_jax.data.demo data/demo`", "importers FORMAT ... --out data/demo`"):
        assert making in without.stderr
    assert os.listdir(tmp_path) == []
    shown = subprocess.run([*command, "--print-config", "--config.seed=5"], **where)
    assert "--workdir=results/demo" in shown.stdout and os.listdir(tmp_path) == []
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["data.pack", "=", "'data/demo'", "default", "folder"] in [row[:5] for row in rows]
    assert ["seed", "=", "5", "flag"] in [row[:4] for row in rows]
    write_pack(tmp_path / "data" / "demo", sessions=2)
    whole = subprocess.run([*command, "--config.fold=1"], **where)
    assert whole.returncode == 0, whole.stderr
    assert "pack data/demo; work directory results/demo\n" in whole.stderr
    assert os.listdir(tmp_path / "results") == ["demo"]
    script = [sys.executable, f"{ROOT}/evaluate.py", f"--config={ROOT}/configs/demo.py"]
    assert subprocess.run(script, **where).stdout == whole.stdout


@pytest.mark.parametrize(
    "given, folder",
    [
        ("configs/iemocap.py", "results/iemocap"),
        ("/elsewhere/own.py:pooled,cmarr_plus", "results/own-pooled,cmarr_plus"),
        ("own.py:data.pack=a/b", "results/own-data.pack=a_b"),
    ],
)
def test_the_work_directory_is_named_by_config_and_argument(given, folder):
    assert places.workdir(given) == folder


@pytest.mark.parametrize("name, maker", [("iemocap", "extract iemocap"), ("own", "data.demo")])
def test_a_pack_that_is_not_there_is_one_line_with_two_commands(name, maker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = common.get_config()
    with pytest.raises(UserError) as error:
        places.set_pack(config, f"configs/{name}.py")
    assert str(error.value).startswith(f"data/{name}: no such pack") and maker in str(error.value)
    assert str(error.value).count(f"data/{name}") == 3 and "importers" in str(error.value)
    os.makedirs(f"data/{name}")
    places.set_pack(config.lock(), f"configs/{name}.py")
    assert config.data.pack == f"data/{name}"
    places.set_pack(config, "configs/other.py")
    assert config.data.pack == f"data/{name}"  # a flag or the file has named one


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    ["train.batch_size=10000", "train.schedule=step", "model.fusion.num_heads=7", "fold=9"],
)
def test_a_wrong_field_leaves_nothing_behind(tmp_path, tiny_pack, wrong):
    flags = [*SMALL, f"--config.data.pack={tiny_pack.path}", f"--workdir={tmp_path / 'out'}"]
    result = run("train.py", *flags, f"--config.{wrong}")
    assert result.returncode == 2 and "error: " in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A finished sweep of two folds by the real command, and its output."""
    folder = tmp_path_factory.mktemp("cli")
    write_pack(folder / "pack", sessions=2)
    flags = [*SMALL, f"--config.data.pack={folder / 'pack'}", f"--workdir={folder / 'out'}"]
    result = run("train.py", *flags)
    assert result.returncode == 0, result.stderr
    return folder / "out", flags, result


def test_every_result_file_is_there_as_promised(sweep):
    out, _, result = sweep
    assert "full {s,v,t}" in result.stdout and "avg" in result.stdout
    assert "epoch 2/2" in result.stderr
    names = set(os.listdir(out))
    assert names >= {
        "results.csv", "summary.csv", "predictions.csv", "confusion.npz", "config.json",
        "status.json", "metrics", "checkpoints", "history.csv", "reconstruction.csv",
        "representations.npz", "model",
    }  # fmt: skip
    assert set(os.listdir(out / "checkpoints")) == {"last", "best"}
    rows = read_csv(out / "results.csv")
    columns = "corpus,system,variant,protocol,fold,seed,condition,n,war,uar,macro_f1,rec_error"
    assert ",".join(rows[0]) == f"{columns},n_train,recalls,weighted_f1"
    assert len(rows) == 2 * 7
    assert [r["condition"] for r in rows[:7]] == ["t", "s", "v", "vt", "sv", "st", "svt"]
    status = json.loads((out / "status.json").read_text())
    assert status["complete"] is True and set(status["versions"]) >= {"python", "jax", "numpy"}
    history = read_csv(out / "history.csv")
    assert ",".join(history[0]).startswith("stage,epoch,fold,seed,val_uar,")
    runs = [(r["epoch"], r["fold"]) for r in history]
    assert runs == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
    assert set(history[0]) > {"loss", "cls", "rec", "udcl", "spcl"}
    assert os.listdir(out / "metrics" / "figures")


def test_results_follow_from_the_predictions(sweep):
    out, _, _ = sweep
    predictions = read_csv(out / "predictions.csv")
    confusion = np.load(out / "confusion.npz")
    for row in read_csv(out / "results.csv"):
        mine = [
            p for p in predictions if all(p[k] == row[k] for k in ("fold", "seed", "condition"))
        ]
        assert len(mine) == int(row["n"])
        hits = np.mean([p["label"] == p["predicted"] for p in mine])
        np.testing.assert_allclose(float(row["war"]), hits, atol=1e-6)
        for p in mine:
            posterior = np.array(p["probabilities"].split(), float)
            np.testing.assert_allclose(posterior.sum(), 1, atol=1e-5)
            assert "abc"[posterior.argmax()] == p["predicted"]
    assert confusion["confusion"].shape == (2, 7, 3, 3)
    video = [r for r in read_csv(out / "results.csv") if r["condition"] == "v"]
    full = [r for r in read_csv(out / "results.csv") if r["condition"] == "svt"]
    assert sum(int(r["n"]) for r in video) < sum(int(r["n"]) for r in full) == 60


def test_summary_averages_the_missing_conditions(sweep):
    out, _, _ = sweep
    rows = read_csv(out / "results.csv")
    summary = {r["condition"]: r for r in read_csv(out / "summary.csv")}
    missing = [float(r["war"]) for r in rows if r["condition"] != "svt"]
    np.testing.assert_allclose(float(summary["avg"]["war"]), np.mean(missing), atol=2e-6)
    full = [float(r["war"]) for r in rows if r["condition"] == "svt"]
    np.testing.assert_allclose(float(summary["full"]["war"]), np.mean(full), atol=2e-6)
    np.testing.assert_allclose(float(summary["full"]["war_std"]), np.std(full, ddof=1), atol=2e-6)


def test_run_again_it_prints_the_same_results(sweep):
    out, flags, first = sweep
    before = {f: (out / f).read_bytes() for f in ("results.csv", "predictions.csv")}
    again = run("train.py", *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert "epoch" not in again.stderr.replace("epochs on", "")
    assert before == {f: (out / f).read_bytes() for f in before}


def test_reconstruction_errors_of_one_missing_modality_are_the_results(sweep):
    out, _, _ = sweep
    wanted = {(r["fold"], r["condition"]): r["rec_error"] for r in read_csv(out / "results.csv")}
    rows = read_csv(out / "reconstruction.csv")
    assert len(rows) == 2 * (2 + 2 + 2 + 1 + 1 + 1)
    for row in rows:
        if len(row["condition"]) == 2:
            error = float(wanted[row["fold"], row["condition"]])
            np.testing.assert_allclose(float(row["rec_error"]), error, atol=2e-6)
            assert row["modality"][0] not in row["condition"]


@pytest.mark.slow
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(sweep, tmp_path):
    """Of the sweep that is done already: it compiles that sweep's programs and no other."""
    out, flags, _ = sweep
    flags = [f for f in flags if not f.startswith("--workdir")]
    script = (
        "import atexit, jax, runpy, sys; sys.modules['tensorflow'] = None; "  # half the test's time
        "events = []; jax.monitoring.register_event_listener(lambda name, **_: events.append(name));"
        "atexit.register(lambda: print(*events, sep='\\n', file=sys.stderr)); "
        "runpy.run_path('train.py', run_name='__main__')"
    )
    result = run("-c", script, *flags, f"--workdir={tmp_path / 'new'}", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "2 runs: 2 folds x 1 seeds" in result.stdout and "expected time: " in result.stdout
    (row,) = (line.split() for line in result.stdout.splitlines() if line.startswith("train "))
    weights = np.load(out / "model" / "weights.npz")
    size = sum(x[0].size for name, x in weights.items() if name.startswith("params/"))
    assert row[1:4] == [f"{size:,}", "2", "3"]  # 27 or 28 training utterances in batches of 8
    assert os.listdir(tmp_path) == []
    events = result.stderr.splitlines()
    assert events.count("/jax/compilation_cache/cache_hits") > 5
    assert "/jax/compilation_cache/cache_misses" not in events


def test_another_config_is_refused(sweep):
    _, flags, _ = sweep
    result = run("train.py", *flags, "--config.model.udcl.weight=0.5")
    assert result.returncode == 2
    assert "model.udcl.weight=1.0, now 0.5" in result.stderr


@pytest.mark.slow
def test_evaluate_draws_several_folders_side_by_side(tmp_path):
    kinds = {"a": {"system": "mmin"}, "b": {}, "c": {"folds": 2}}
    a, b, c = (results_folder.write(tmp_path / n, curves=(0.5,), **k) for n, k in kinds.items())
    two = [f"--workdir={a}", f"--workdir={b}"]
    before = {*os.listdir(a), *os.listdir(b)}
    both = run("evaluate.py", *two, "--figure=systems", "--table=own", "--nocaption")
    assert both.returncode == 0, both.stderr
    assert "p of avg" in both.stdout
    assert both.stdout.splitlines()[-1] == f"drawn: {a}/systems.pdf, {a}/systems.png"
    assert {*os.listdir(a)} - before == {"systems.pdf", "systems.png", "systems.txt"}
    assert not {*os.listdir(b)} - before
    caption = (tmp_path / "a" / "systems.txt").read_text()
    assert "n = 48 test utterances, 3 folds, 2 seeds" in caption
    file = tmp_path / "new" / "x.pdf"
    for name, drawings in (("robustness", f"{a}/robustness.pdf, {a}/robustness.png"), (file, file)):
        drawn = run("evaluate.py", *two, f"--figure={name}")
        assert (drawn.returncode, drawn.stdout) == (0, f"drawn: {drawings}\n"), drawn.stderr
    assert file.stat().st_size > 5000
    for flags, line in (
        ([*two, "--figure=confusion"], "--figure=confusion: of 2 --workdir, wanted systems, "),
        ([*two, "--figure=x.gif"], "--figure=x.gif: of 2 --workdir, wanted systems, "),
        ([f"--workdir={a}", f"--workdir={c}", "--figure=y.pdf"], "wanted the same"),
    ):
        refused = run("evaluate.py", *flags)
        assert refused.returncode == 2 and line in refused.stderr, refused.stderr
        assert not refused.stdout and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_evaluate_prints_the_table_draws_it_and_writes_the_page(sweep):
    out, _, first = sweep
    figure = out / "conditions.png"
    result = run("evaluate.py", f"--workdir={out}", f"--figure={figure}", "--report")
    assert result.returncode == 0, result.stderr
    assert f"written: {out}/report.html" in result.stdout
    assert "CM-ARR on tiny" in (out / "report.html").read_text()
    assert len(result.stdout.splitlines()) == 2  # no table that was not asked for
    table = run("evaluate.py", f"--workdir={out}")
    assert first.stdout.strip() in table.stdout
    asked = run(
        "evaluate.py", f"--workdir={out}", "--confusion=full", "--scores=weighted_f1,recall"
    )
    assert asked.returncode == 0 and "taken for each class" in asked.stdout, asked.stderr
    assert "weighted F1 %" in asked.stdout and "WAR" not in asked.stdout
    assert figure.stat().st_size > 10_000
    refused = run("evaluate.py", f"--workdir={out}", "--figure=x.gif")
    assert refused.returncode == 2 and ".pdf or .png" in refused.stderr
    assert "conditions, confusion, curves" in refused.stderr
    refused = run("evaluate.py", f"--workdir={out}", "--ensemble")
    assert refused.returncode == 2 and "these results are of one seed" in refused.stderr


def test_a_folds_model_predicts_its_test_part_as_the_sweep_did(sweep, tmp_path):
    """From the folder `model` alone, elsewhere, where TensorFlow cannot be imported."""
    out, _, _ = sweep
    shutil.copytree(out / "model", tmp_path / "model")
    script = (
        "import sys; sys.modules['tensorflow'] = None; from cmarr_jax import predict; "
        "predict.command()"
    )
    result = run(
        "-c", script, f"--workdir={tmp_path / 'model'}", f"--pack={out.parent / 'pack'}", "--fold=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    made = {p["id"]: p for p in map(json.loads, result.stdout.splitlines())}
    assert len(made) == 60 and "60 utterances in" in result.stderr
    expected = [
        r for r in read_csv(out / "predictions.csv") if (r["fold"], r["condition"]) == ("2", "svt")
    ]
    assert len(expected) == 30
    for row in expected:
        mine = made[row["id"]]
        assert mine["predicted"] == row["predicted"] and mine["spread"] is None
        np.testing.assert_allclose(
            list(mine["posterior"].values()),
            [float(p) for p in row["probabilities"].split()],
            atol=1e-5,
        )


@pytest.mark.slow
def test_figure_5_is_drawn_from_the_results_alone(sweep):
    out, _, _ = sweep
    arrays = np.load(out / "representations.npz")
    modalities, num, _ = arrays["recovered"].shape
    assert arrays["true"].shape == arrays["recovered"].shape and modalities == 3 and num > 4
    result = run("evaluate.py", f"--workdir={out}", "--figure=5")
    assert result.returncode == 0, result.stderr
    assert (out / "figure5.pdf").exists() and "text: 0." in result.stdout
    refused = run("evaluate.py", f"--workdir={out}", "--figure=4")
    assert refused.returncode == 2 and "no sweep of loss weights" in refused.stderr
    refused = run("evaluate.py", f"--workdir={out}", "--table=2")
    assert refused.returncode == 2 and "but not cra" in refused.stderr
    refused = run("evaluate.py", f"--workdir={out}", "--table=own")
    assert refused.returncode == 2 and "config.json names no members" in refused.stderr


TABLE = [
    "--config=configs/demo.py:table3",
    *(f for f in SMALL[1:] if "model." not in f and "epochs" not in f),
    "--config.train.epochs=1",
    "--config.pretrain.epochs=1",
    "--config.fold=1",
    "--config.robustness.missing_rates=(0.0, 0.5)",
    "--config.robustness.noise_levels=(0.5,)",
    "--config.model.width=16",
    "--config.model.umc.num_heads=2",
    "--config.model.fusion.num_heads=2",
    "--config.model.flow.num_couplings=1",
    "--config.model.rec.num_blocks=1",
]


@pytest.mark.faults
def test_a_table_is_trained_member_by_member_and_resumes(tmp_path):
    """Two members stand for all: the loop over them is what is tested."""
    pack, out = write_pack(tmp_path / "pack").path, tmp_path / "table"
    two = "('full_modality','full_modality'),('cmarr','cmarr')"
    flags = [*TABLE, f"--config.data.pack={pack}", f"--workdir={out}", f"--config.members=({two})"]
    first = run("train.py", *flags)
    assert first.returncode == 0, first.stderr
    rows = read_csv(out / "results.csv")
    assert [*dict.fromkeys(r["system"] for r in rows)] == ["full_modality", "cmarr"]
    of = {r["condition"]: r for r in rows if r["system"] == "cmarr"}
    assert list(of)[7:] == ["missing=0", "missing=0.5", "gaussian=0.5", "impulse=0.5"]
    assert of["missing=0"]["war"] == of["svt"]["war"]
    for name in ("full_modality", "cmarr"):
        assert json.loads((out / name / "status.json").read_text())["complete"]
    again = run("train.py", *flags)
    assert again.stdout == first.stdout and again.stderr.count("trained already") == 1
    own = run("evaluate.py", f"--workdir={out}", "--table=own")
    assert own.returncode == 0 and "over 1 run. " in own.stdout, own.stderr
    drawn = run(
        "evaluate.py", f"--workdir={out}", "--figure=all", "--table=own", "--format=latex",
        "--scores=war,recall",
    )  # fmt: skip
    assert drawn.returncode == 0 and r"\label{tab:" in drawn.stdout, drawn.stderr
    assert drawn.stdout.splitlines()[-1] == "drawn: " + ", ".join(
        f"{out}/{name}.{kind}" for name in ("systems", "robustness") for kind in ("pdf", "png")
    )
    one = [f.replace(":table3", "") for f in flags if "members" not in f]
    refused = run("train.py", *one)
    assert refused.returncode == 2 and "belongs to a sweep with members=" in refused.stderr
    refused = run("evaluate.py", f"--workdir={out}", "--figure=x.png")
    assert refused.returncode == 2 and "holds several sweeps" in refused.stderr


@pytest.mark.slow
def test_table_3_of_one_vector_a_modality_says_what_it_leaves_out(tmp_path):
    config = common.with_variants(common.get_config(), "pooled,table3")
    for name, _ in config.members:
        kind = {"system": name} if name == "full_modality" else {"variant": f"pooled,{name}"}
        results_folder.write(tmp_path / name, **kind)
    folders = [str(tmp_path / name) for name, _ in config.members]
    join(str(tmp_path), folders, missing=0)
    (tmp_path / "config.json").write_text(json.dumps({"members": config.members}))
    shown = run("evaluate.py", f"--workdir={tmp_path}", "--table=3")
    assert shown.returncode == 0, shown.stderr
    caption = shown.stdout.splitlines()[0]
    assert "Left out: w/o attention; here each modality is one vector" in caption
    assert not any(line.startswith("w/o attention") for line in shown.stdout.splitlines())
    (tmp_path / "config.json").unlink()  # what was left out is then not known
    refused = run("evaluate.py", f"--workdir={tmp_path}", "--table=3")
    assert refused.returncode == 2 and "but not no_attention" in refused.stderr


@pytest.mark.slow
def test_a_teachers_folder_that_cannot_be_made_is_named_before_anything_is_trained(tmp_path):
    pack = write_pack(tmp_path / "pack").path
    flags = ["--config=configs/demo.py:mmin", *(f for f in SMALL[1:] if "model." not in f)]
    result = run(
        "train.py", *flags, f"--config.data.pack={pack}", f"--workdir={tmp_path / 'out'}",
        "--config.pretrain.batch_size=8", "--config.teachers=/dev/null/x",
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert "--config.teachers=/dev/null/x: cannot be made" in result.stderr
    assert not list((tmp_path / "out").rglob("*"))


def test_a_damaged_status_is_named(tmp_path):
    (tmp_path / "status.json").write_text("[1")
    result = run("evaluate.py", f"--workdir={tmp_path}")
    assert result.returncode == 2 and "status.json: damaged" in result.stderr


def test_evaluate_says_that_a_sweep_is_not_complete(tmp_path):
    (tmp_path / "status.json").write_text('{"complete": false, "epochs_done": 3, "epochs": 9}')
    result = run("evaluate.py", f"--workdir={tmp_path}")
    assert result.returncode == 2 and "3 of 9 epochs" in result.stderr


def test_every_compiled_program_is_kept_in_the_users_cache_folder(tmp_path, monkeypatch):
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name, raising=False)
    prepare_to_compile()
    assert settings == {
        "jax_enable_x64": False,
        "jax_numpy_dtype_promotion": "standard",
        "jax_transfer_guard": "allow",
        "jax_compilation_cache_dir": str(tmp_path / "cmarr_jax" / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    settings.clear()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    prepare_to_compile()
    assert "jax_compilation_cache_dir" not in settings


def test_the_garbage_collector_forgets_what_is_imported_once(monkeypatch):
    calls, count = [], [0]
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(gc, "get_freeze_count", lambda: count[0])
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    prepare_to_compile()
    count[0] = 400_000
    prepare_to_compile()
    assert calls == ["freeze"]
