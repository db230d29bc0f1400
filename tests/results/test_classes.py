import os

import numpy as np
import pytest
import sklearn.metrics

from cmarr_jax import metrics
from cmarr_jax.errors import UserError
from cmarr_jax.results import classes, folder, summary
from cmarr_jax.results.rows import read_summary
from tests.results import results_folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return results_folder.write(tmp_path_factory.mktemp("classes") / "a", curves=(0.5,))


def test_weighted_f1_and_recalls_are_scikit_learns(rng):
    labels, predicted = rng.integers(0, 3, 90), rng.integers(0, 4, 90)
    counts = metrics.confusion_matrix(labels, predicted, 5)
    made = classes.scores(counts, "abcde")
    expected = sklearn.metrics.f1_score(labels, predicted, average="weighted")
    np.testing.assert_allclose(made["weighted_f1"], expected)
    recalls = sklearn.metrics.recall_score(labels, predicted, average=None, labels=[0, 1, 2])
    np.testing.assert_allclose([made[f"recall {c}"] for c in "abc"], recalls)
    assert np.isnan(made["recall d"]) and np.isnan(metrics.weighted_f1(np.zeros((2, 2), int)))


def test_the_mean_of_the_recalls_is_the_uar_of_each_row(workdir):
    rows, names = classes.rows(workdir)
    assert names == ["ang", "hap", "neu", "sad"]
    plain = [row for row in rows if "=" not in row["condition"]]
    assert 0 < len(plain) < len(rows)
    for row in plain:
        recalls = [float(row[f"recall {name}"]) for name in names]
        np.testing.assert_allclose(np.mean(recalls), float(row["uar"]), atol=2e-6)
    columns = classes.columns(["weighted_f1", "recall"], names)
    text = summary.summary_table(summary.summarise(rows, columns), columns)
    lines = text.splitlines()
    assert "weighted F1 %" in lines[2] and "recall sad %" in lines[2] and "WAR" not in text
    of_sad = [100 * float(r["recall sad"]) for r in rows if r["condition"] == "t"]
    mine = next(line for line in lines if line.startswith("{t} "))
    assert mine.endswith(f"{np.mean(of_sad):.2f} ± {np.std(of_sad, ddof=1):.2f}")


def test_unknown_scores_and_conditions_are_named(workdir):
    with pytest.raises(UserError, match="--scores=f2: wanted some of war, uar, macro_f1"):
        classes.columns(["f2"], [])
    with pytest.raises(UserError, match="--confusion=x: wanted one of t, s, v"):
        classes.confusion_text(folder.load(workdir), "x")


def test_the_confusion_matrix_in_words(workdir):
    r = folder.load(workdir)
    lines = classes.confusion_text(r, "full").splitlines()
    assert lines[0].startswith("CM-ARR on tiny, available {s,v,t}: per cent of each true class")
    assert lines[2].split() == ["true", "ang", "hap", "neu", "sad", "n"]
    counts = r.confusion[:, -1].sum(axis=0)
    for line, name, row in zip(lines[3:], r.classes, counts, strict=True):
        first, *cells, n = line.split()
        assert first == name and int(n) == row.sum()
        np.testing.assert_allclose(np.array(cells, float), 100 * row / row.sum(), atol=0.051)


def test_the_summary_says_what_a_reader_must_know(workdir):
    rows = read_summary(workdir)
    text = summary.summary_table(rows)
    assert text.count(summary.ONE_IS_KEPT) == 1 and summary.WORSE_THAN_ZEROS not in text
    rows[1]["rec_error"] = "1.250000"
    text = summary.summary_table(rows)
    assert text.count(f"! {summary.WORSE_THAN_ZEROS}") == 1 and text.count(" !\n") == 1
    assert next(line for line in text.splitlines() if "1.25 !" in line).startswith("{s}")


def test_no_confusion_file_is_one_line(tmp_path):
    made = results_folder.write(tmp_path / "a", folds=1, seeds=1, num=12)
    os.remove(os.path.join(made, "confusion.npz"))
    with pytest.raises(UserError, match=r"confusion\.npz: missing"):
        classes.rows(made)
