"""Each fold takes the trial that its own validation likes best, and the joined folder reads back."""

import json
import os

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.results import classes, ensemble, figure_files, nested, notebook
from cmarr_jax.results.arrays import read_confusion
from cmarr_jax.results.folder import load
from cmarr_jax.results.rows import read_results, read_summary
from cmarr_jax.results.summary import summary_table
from cmarr_jax.runtime.files import write_json
from cmarr_jax.workdir import files, model_folder
from tests.results import results_folder


def naive(val_uar, runs):
    """fold -> (trial, its mean), by a plain loop."""
    best = {}
    for fold in sorted({fold for fold, _ in runs}):
        for trial, of_run in val_uar.items():
            total, number, wanted = 0.0, 0, 0
            for run in runs:
                if run[0] == fold:
                    wanted += 1
                    if run in of_run:
                        total += of_run[run]
                        number += 1
            if number < wanted:
                continue
            if fold not in best or total / number > best[fold][1] + 1e-12:
                best[fold] = trial, total / number
    return best


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_a_naive_loops(seed):
    rng = np.random.default_rng(seed)
    runs = [(fold, s) for s in range(rng.integers(1, 4)) for fold in (1, 2, 3, 4)]
    val_uar = {"always there": dict.fromkeys(runs, 0.1)}
    for t in range(6):
        # Few values, so that there are ties, and some runs lack.
        val_uar[f"trial {t}"] = {r: rng.integers(1, 9) / 8 for r in runs if rng.random() > 0.1}
    wanted = naive(val_uar, runs)
    found = nested.choose(val_uar, runs)
    assert {c.fold: c.trial for c in found} == {f: trial for f, (trial, _) in wanted.items()}
    for choice in found:
        np.testing.assert_allclose(choice.val_uar[choice.trial], wanted[choice.fold][1])
        for trial, of_run in val_uar.items():
            whole = all(run in of_run for run in runs if run[0] == choice.fold)
            assert np.isnan(choice.val_uar[trial]) == (not whole)


def test_of_equal_trials_the_first_is_taken_in_each_fold():
    runs = [(1, 0), (2, 0), (1, 1), (2, 1)]
    a = {(1, 0): 0.5, (1, 1): 0.7, (2, 0): 0.3, (2, 1): 0.3}
    b = {(1, 0): 0.7, (1, 1): 0.5, (2, 0): 0.3, (2, 1): 0.4}
    assert [c.trial for c in nested.choose({"a": a, "b": b}, runs)] == ["a", "b"]
    assert [c.trial for c in nested.choose({"b": b, "a": a}, runs)] == ["b", "b"]


def test_a_fold_that_no_trial_has_whole_is_named():
    with pytest.raises(UserError, match="fold 2: in each of the 2 trials one of its runs was stop"):
        nested.choose({"a": {(1, 0): 0.5}, "b": {(1, 0): 0.5}}, [(1, 0), (2, 0)])


# The best trial of folds 1, 2, 3 over two seeds: "fast", "long" (by its mean alone), "own" (a tie).
VAL = {
    "own": [0.50, 0.50, 0.625, 0.55, 0.52, 0.5],
    "fast": [0.60, 0.70, 0.60, 0.61, 0.30, 0.50],
    "long": [0.55, 0.51, 0.5, 0.56, 0.54, 0.625],
}
RUNS = [(fold, seed) for seed in (0, 1) for fold in (1, 2, 3)]
BEST = {1: "fast", 2: "long", 3: "own"}


def write_trials(root, *, curves=(0.5,), system="cmarr"):
    """Three trials with different scores, as sweep.py leaves them; test scores say nothing."""
    made = []
    for draw, (name, uar) in enumerate(VAL.items()):
        place = results_folder.write(
            root / name, system=system, variant=f"pooled,x={draw}", curves=curves, draw=draw
        )
        config = json.loads((root / name / "config.json").read_text())
        config |= {"seed": 0, "num_seeds": 2, "variant": f"pooled,x={draw}"}
        config |= {"data": {"pack": "p"}, "train": {"learning_rate": 10.0**-draw, "epochs": 3}}
        write_json(os.path.join(place, "config.json"), config)
        change_status(place, corpus="abc", precision="float32")
        facts = [
            {"fold": f, "seed": s, "epoch": f + s, "val_uar": u}
            for (f, s), u in zip(RUNS, uar, strict=True)
        ]
        os.makedirs(root / name / "model")
        write_json(str(root / name / "model" / "model.json"), {"runs": facts})
        made.append(nested.Trial(name, place, {"train.learning_rate": 10.0**-draw}))
    return made


def change(file, **fields):
    content = files.read_json(str(file))
    write_json(str(file), content | fields)


def change_status(place, **fields):
    change(os.path.join(place, "status.json"), **fields)


@pytest.fixture
def trials(tmp_path):
    return write_trials(tmp_path)


def test_each_folds_rows_are_those_of_its_trial(trials, tmp_path):
    out = str(tmp_path / "tuned")
    choices = nested.write(out, trials, "pooled")
    assert {c.fold: c.trial for c in choices} == BEST
    renamed = {"variant", "protocol"}
    for name in (files.RESULTS, files.PREDICTIONS, files.HISTORY, files.RECONSTRUCTION):
        found = files.read_csv(os.path.join(out, name))
        wanted = [
            row
            for fold, trial in BEST.items()
            for row in files.read_csv(str(tmp_path / trial / name))
            if row["fold"] == str(fold)
        ]

        def plain(rows):
            return sorted(sorted((k, v) for k, v in r.items() if k not in renamed) for r in rows)

        assert plain(found) == plain(wanted) and len(found) > 10, name
    own = read_confusion(out)
    assert list(zip(own["folds"].tolist(), own["seeds"].tolist(), strict=True)) == RUNS
    for run, counts in zip(RUNS, own["confusion"], strict=True):
        theirs = read_confusion(str(tmp_path / BEST[run[0]]))
        np.testing.assert_array_equal(counts, theirs["confusion"][RUNS.index(run)])
    for name in (files.AUDIT, files.REPRESENTATIONS):
        assert (tmp_path / "tuned" / name).read_bytes() == (tmp_path / "fast" / name).read_bytes()


def test_it_reads_back_as_any_other_folder_and_says_how_many_trials_there_were(trials, tmp_path):
    out = str(tmp_path / "tuned")
    nested.write(out, trials, "pooled")
    told = "3 folds by session; 3 trials, chosen in each fold by validation"
    shown = summary_table(read_summary(out))
    assert shown.startswith(f"CM-ARR (pooled, tuned) on tiny; {told}; 6 runs")
    results = load(out)
    assert results.runs == RUNS and results.identity["protocol"] == told
    assert results.config["train"] == {"learning_rate": nested._DIFFERS, "epochs": 3}
    assert results.config["variant"] == "pooled,tuned"
    status = results.status
    assert status["complete"] and status["trials"] == 3 and status["seconds"] == 3 * 61.0
    assert status["chosen"] == {"1": "fast", "2": "long", "3": "own"} and status["corpus"] == "abc"
    tuning = files.read_csv(os.path.join(out, files.TUNING))
    assert len(tuning) == 3 * 3
    assert [(r["fold"], r["trial"]) for r in tuning if r["chosen"] == "1"] == [
        (str(fold), trial) for fold, trial in BEST.items()
    ]
    assert [r["val_uar"] for r in tuning[:3]] == ["0.525000", "0.605000", "0.555000"]
    assert tuning[0]["epochs"] == "1 2" and tuning[2]["train.learning_rate"] == "0.01"
    assert len(classes.rows(out)[0]) == len(read_results(out)) and ensemble.rows(results)
    assert {"conditions", "curves", "calibration"} <= set(figure_files.drawable(results))
    with pytest.raises(UserError, match=r"no model; name one of the trials.*tuning\.csv"):
        model_folder.read(out)


def test_tuned_systems_stand_side_by_side_if_they_had_as_many_trials(tmp_path):
    both = []
    for system in ("mmin", "cmarr"):
        trials = write_trials(tmp_path / system, system=system)
        nested.write(str(tmp_path / system / "tuned"), trials, "pooled")
        both.append(notebook.Results(tmp_path / system / "tuned"))
    assert notebook.name_apart(both) == ["pooled", "tuned"]
    table = both[1].compare(both[0]).table()
    assert "3 trials, chosen in each fold by validation" in table.splitlines()[0]
    assert [line.split()[0] for line in table.splitlines() if "±" in line][1:] == [
        "MMIN", "CM-ARR", "MMIN", "CM-ARR",
    ]  # fmt: skip
    more = notebook.Comparison(both, ["weighted_f1", "recall neu"])
    assert more.values.scores == ("weighted_f1", "recall neu")
    nested.write(str(tmp_path / "fewer"), trials[:2], "pooled")
    with pytest.raises(UserError, match=r"its protocol is .*2 trials.*3 trials"):
        both[1].compare(notebook.Results(tmp_path / "fewer"))


def test_a_trial_that_was_stopped_in_a_fold_is_not_chosen_there_and_that_is_said(trials, tmp_path):
    out = str(tmp_path / "tuned")
    place = tmp_path / "fast"
    facts = files.read_json(str(place / "model" / "model.json"))["runs"]
    change(
        place / "model" / "model.json", runs=[r for r in facts if (r["fold"], r["seed"]) != (1, 1)]
    )
    gone = {
        "fold": 1,
        "seed": 1,
        "stage": "",
        "epoch": 2,
        "step": 3,
        "term": "loss",
        "value": "nan",
    }
    change_status(str(place), complete=False, stopped=[gone])
    choices = nested.write(out, trials, "default")
    assert choices[0].trial == "long" and np.isnan(choices[0].val_uar["fast"])
    assert "fold 1: fast was stopped in one of its runs" in nested.table(choices)
    row = next(r for r in files.read_csv(os.path.join(out, files.TUNING)) if r["trial"] == "fast")
    assert (row["val_uar"], row["stopped"], row["epochs"]) == ("", "1", "1")
    assert files.read_json(os.path.join(out, "status.json"))["complete"]
    assert load(out).identity["variant"] == "tuned"


def test_a_trial_that_was_stopped_in_all_its_runs_counts_and_is_never_chosen(trials, tmp_path):
    stopped = [
        {"fold": f, "seed": s, "stage": "", "epoch": 2, "step": 3, "term": "loss", "value": "nan"}
        for f, s in RUNS
    ]
    for name in (files.RESULTS, "model/model.json"):
        (tmp_path / "fast" / name).unlink()
    change_status(str(tmp_path / "fast"), complete=False, stopped=stopped)
    choices = nested.write(str(tmp_path / "tuned"), trials, "default")
    assert "fast" not in {c.trial for c in choices}
    assert "; 3 trials, chosen" in read_results(str(tmp_path / "tuned"))[0]["protocol"]


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("system", "mmin", "system=mmin, of .* cmarr; the choice in each fold is between"),
        ("seed", 5, "seed=5, of .* 0; the choice"),
        ("data", {"pack": "q"}, r"data\.pack=q, of .* p; the choice"),
        ("protocol", {"select_on_test": False, "validation": "rotate"}, "validation=rotate, of"),
    ],
)
def test_trials_of_something_else_are_refused(trials, tmp_path, field, value, message):
    change(tmp_path / "long" / "config.json", **{field: value})
    refused(trials, tmp_path, message)


def refused(trials, tmp_path, message):
    with pytest.raises(UserError, match=message) as e:
        nested.write(str(tmp_path / "tuned"), trials, "pooled")
    assert "\n" not in str(e.value) and not (tmp_path / "tuned").exists()


def test_another_corpus_seeds_and_what_validation_did_not_choose_are_refused(trials, tmp_path):
    change_status(str(tmp_path / "own"), corpus="xyz")
    refused(trials, tmp_path, "the pack p was changed in between")
    change_status(str(tmp_path / "own"), corpus="abc")
    facts = tmp_path / "long" / "model" / "model.json"
    before = files.read_json(str(facts))["runs"]
    change(facts, runs=before[:-1])
    refused(trials, tmp_path, "has other folds or seeds than")
    change(facts, runs=[r | {"val_uar": None} for r in before])
    refused(trials, tmp_path, "no validation part .*nothing to choose a trial by")
    change(facts, runs=before)
    for trial in trials:
        change(os.path.join(trial.folder, "config.json"), protocol={"select_on_test": True})
    refused(trials, tmp_path, "validated on its test part")


def test_other_conditions_are_refused(tmp_path):
    trials = write_trials(tmp_path)
    other = write_trials(tmp_path / "more", curves=())
    refused(
        [trials[0], other[1], trials[2]], tmp_path, "different corpora, protocols or conditions"
    )


def test_a_kill_in_the_middle_leaves_a_folder_that_says_so_and_the_next_time_mends_it(
    trials, tmp_path, monkeypatch
):
    out = str(tmp_path / "tuned")
    nested.write(out, trials, "pooled")
    whole = {f.name: f.read_bytes() for f in (tmp_path / "tuned").iterdir()}

    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(nested.arrays, "write_confusion", killed)
        with pytest.raises(KeyboardInterrupt):
            nested.write(out, trials[:2], "pooled")
    with pytest.raises(UserError, match="not complete"):
        read_results(out)
    nested.write(out, trials, "pooled")
    now = {f.name: f.read_bytes() for f in (tmp_path / "tuned").iterdir()}
    assert set(now) == set(whole) and "lock" not in now
    assert all(now[n] == whole[n] for n in whole if n != "status.json")


def test_files_of_an_earlier_choice_do_not_stay(trials, tmp_path):
    out = tmp_path / "tuned"
    nested.write(str(out), trials, "pooled")
    for trial in trials:
        for name in (files.RECONSTRUCTION, files.REPRESENTATIONS, files.AUDIT):
            os.remove(os.path.join(trial.folder, name))
    nested.write(str(out), trials, "pooled")
    assert not {files.RECONSTRUCTION, files.REPRESENTATIONS, files.AUDIT} & set(os.listdir(out))


def test_a_damaged_trial_is_named(trials, tmp_path):
    file = tmp_path / "fast" / files.PREDICTIONS
    file.write_text(file.read_text()[:-40])
    with pytest.raises(UserError, match=r"fast/predictions\.csv: missing or damaged"):
        nested.write(str(tmp_path / "tuned"), trials, "pooled")
