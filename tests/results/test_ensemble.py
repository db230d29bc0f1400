"""A fold's ensemble names the class with the highest mean posterior."""

import os

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.results import ensemble
from cmarr_jax.results.folder import load
from cmarr_jax.results.summary import summarise, summary_table
from tests.results import results_folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "a"
    return load(results_folder.write(folder, seeds=3, num=120, curves=(0.5,)))


def by_a_loop(results, fold, condition):
    """WAR and UAR of one fold's seeds together."""
    p, sums, labels = results.predictions, {}, {}
    for i, name in enumerate(p.ids):
        if results.runs[p.run[i]][0] == fold and p.condition[i] == condition:
            sums[name] = sums.get(name, 0) + p.posteriors[i]
            labels[name] = p.labels[i]
    hits = [(labels[name], np.argmax(sums[name]) == labels[name]) for name in sums]
    recalls = [np.mean([hit for y, hit in hits if y == c]) for c in sorted(set(labels.values()))]
    return np.mean([hit for _, hit in hits]), np.mean(recalls), len(hits)


def test_scores_are_those_of_the_mean_posterior(results):
    made = ensemble.rows(results)
    names = [*results.conditions, *results.curves]
    assert len(made) == len(results.folds) * len(names)
    for row in made:
        wanted = by_a_loop(results, int(row["fold"]), names.index(row["condition"]))
        found = float(row["war"]), float(row["uar"]), int(row["n"])
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    single = np.mean(results.scores[:, : len(results.conditions), 0])
    together = np.mean([float(row["war"]) for row in made])
    assert together > single + 0.02  # independent errors cancel


def test_the_table_says_what_it_is(results):
    text = summary_table(summarise(ensemble.rows(results)))
    assert "; 3 folds by session; 3 seeds as one model; 3 runs" in text
    assert "avg" in text and "missing=0.5" in text and "nan" not in text


def test_one_seed_is_no_ensemble_and_predictions_are_needed(tmp_path):
    alone = results_folder.write(tmp_path / "one", seeds=1)
    with pytest.raises(UserError, match="of one seed; train with"):
        ensemble.rows(load(alone))
    lacking = results_folder.write(tmp_path / "two")
    os.remove(os.path.join(lacking, "predictions.csv"))
    with pytest.raises(UserError, match=r"no predictions\.csv"):
        ensemble.rows(load(lacking))
