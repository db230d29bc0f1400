import csv
import os
import shutil

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.results.folder import estimates, load
from tests.results import results_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return results_folder.write(tmp_path_factory.mktemp("results") / "a", curves=(0.5,))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied elsewhere")


def rows_of(folder, name):
    with open(os.path.join(folder, name), newline="") as f:
        return list(csv.DictReader(f))


def test_everything_in_the_folder_is_there_and_a_copy_says_the_same(folder, copy):
    here, there = load(folder), load(str(copy))
    assert here.conditions == ["t", "s", "v", "vt", "sv", "st", "svt"]
    assert here.curves == ["missing=0.5"]
    assert here.runs == [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1)]
    assert len(here.history) == 6 * 4 and here.audit["failures"] == []
    for row in rows_of(folder, "results.csv"):
        run = here.runs.index((int(row["fold"]), int(row["seed"])))
        k = [*here.conditions, *here.curves].index(row["condition"])
        assert here.num[run, k] == int(row["n"])
        np.testing.assert_allclose(here.scores[run, k, 1], float(row["uar"]))
        at = (here.predictions.run == run) & (here.predictions.condition == k)
        assert at.sum() == here.num[run, k]
        hits = here.predictions.posteriors[at].argmax(-1) == here.predictions.labels[at]
        np.testing.assert_allclose(hits.mean(), float(row["war"]), atol=1e-6)
    np.testing.assert_array_equal(here.predictions.posteriors, there.predictions.posteriors)


def test_estimates_are_the_summarys_means_with_intervals_over_folds(folder):
    r = load(folder)
    made = estimates(r)
    assert list(made) == [*r.conditions, "avg", "missing=0.5"]
    summary = {row["condition"]: row for row in rows_of(folder, "summary.csv")}
    for name, e in made.items():
        for score in ("war", "uar", "macro_f1"):
            np.testing.assert_allclose(e[score].mean, float(summary[name][score]), atol=2e-6)
    full = r.scores[:, 6, 0].reshape(2, 3).mean(axis=0)  # seeds are averaged first
    half = 4.302653 * np.sqrt((1 / 3 + 1 / 2) * full.var(ddof=1))  # t of two degrees of freedom
    np.testing.assert_allclose(made["svt"]["war"].low, max(full.mean() - half, 0), rtol=1e-5)
    np.testing.assert_allclose(made["svt"]["war"].high, min(full.mean() + half, 1), rtol=1e-5)


def test_one_fold_has_bootstrap_intervals(tmp_path):
    made = estimates(load(results_folder.write(tmp_path, folds=1, seeds=2)))
    for e in made.values():
        assert e["uar"].low < e["uar"].mean < e["uar"].high
        assert np.isnan(e["macro_f1"].low)


@pytest.mark.filterwarnings("error")
def test_one_modality_has_no_missing_conditions(tmp_path):
    r = load(results_folder.write(tmp_path, folds=1, seeds=1, modalities=("text",)))
    made = estimates(r)
    assert list(made) == ["t"] and made["t"]["war"].low < made["t"]["war"].high


def test_the_majority_is_the_largest_class_of_each_test_part(folder):
    r = load(folder)
    of_speech = np.mean([c.sum(1).max() / c.sum() for c in r.confusion[:, 1]])
    np.testing.assert_allclose(r.majority()[1], of_speech)
    np.testing.assert_allclose(r.majority()[6], 0.25)


def test_what_a_folder_lacks_is_none(copy):
    for name in ("predictions.csv", "history.csv", "reconstruction.csv", "representations.npz"):
        os.remove(copy / name)
    for name in ("audit.json", "config.json"):
        os.remove(copy / name)
    r = load(str(copy))
    assert r.predictions is None and r.representations is None and r.audit is None
    assert r.history == [] and r.reconstruction == [] and r.config == {}
    assert not np.isnan(estimates(r)["svt"]["war"].low)


@pytest.mark.parametrize(
    "name, damage",
    [
        ("results.csv", lambda b: b.replace(b",svt,", b",s?t,", 1)),
        ("results.csv", lambda b: b[: len(b) // 2]),
        ("predictions.csv", lambda b: b[:-40]),
        ("predictions.csv", lambda b: b.replace(b"ang", b"ung", 1)),
        ("predictions.csv", lambda b: b"\xff\xfe" + b),
        ("confusion.npz", lambda b: b[:100]),
        ("representations.npz", lambda b: b""),
        ("reconstruction.csv", lambda b: b.replace(b"rec_error", b"error")),
        ("audit.json", lambda b: b[:-5]),
        ("status.json", lambda b: b[:-5]),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(copy, name, damage):
    file = copy / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError) as e:
        load(str(copy))
    assert name in str(e.value) and "damaged" in str(e.value) and "\n" not in str(e.value)


def test_a_tables_folder_is_several_sweeps(tmp_path):
    folder = results_folder.write_table(tmp_path, folds=2, seeds=1, num=16)
    shutil.copy(os.path.join(folder, "cmarr", "confusion.npz"), folder)
    with pytest.raises(UserError, match="several sweeps"):
        load(folder)


def test_majority_is_the_training_parts_largest_class(tmp_path):
    made = results_folder.write(tmp_path / "a", folds=2, seeds=1, num=24)
    found = load(made)
    counts = dict(zip(found.classes, (3, 9, 4, 1), strict=True))
    for fold in found.audit["folds"]:
        fold["parts"]["train"] = {"classes": counts}
    support = found.confusion.sum(axis=-1)
    expected = np.mean(support[..., 1] / support.sum(axis=-1), axis=0)
    np.testing.assert_allclose(found.majority(), expected)
    for audit in (None, {"folds": [1]}, {"folds": found.audit["folds"][:1]}):
        assert np.isnan(found._replace(audit=audit).majority()).all()
