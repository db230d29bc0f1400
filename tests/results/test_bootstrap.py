import csv
import os

import numpy as np
import pytest

from cmarr_jax import metrics
from cmarr_jax.errors import UserError
from cmarr_jax.results import bootstrap, paired
from cmarr_jax.runtime.files import write_csv
from tests.results import results_folder

SCORES = ("war", "uar", "macro_f1", "weighted_f1", "recall a", "recall c")
CLASSES = list("abc")


def sample_of(cluster, labels, guesses, scored=True):
    """Counts of utterances `[n]` and their guesses `[n, S, R, K]`, scored where `[n, K]` says so."""
    num, *shape = guesses.shape
    scored = np.broadcast_to(scored, (num, shape[-1]))[:, None, None].repeat(shape[0], 1)
    scored = scored.repeat(shape[1], 2)
    counts = np.zeros((cluster.max() + 1, *shape, 3, len(CLASSES)))
    i, *cell = np.nonzero(scored)
    c, y, guess = cluster[i], labels[i], guesses[scored]
    np.add.at(counts, (c, *cell, 0, y), y == guess)
    np.add.at(counts, (c, *cell, 1, guess), 1)
    np.add.at(counts, (c, *cell, 2, y), 1)
    return bootstrap.Sample(counts, "speakers", CLASSES)


def naive(cluster, labels, guesses, scored, chosen):
    """One resample's scores `[K + 1, S, 6]`, each utterance as often as its cluster was drawn."""
    rows = np.concatenate([np.flatnonzero(cluster == c) for c in chosen])
    _, systems, seeds, conditions = guesses.shape
    made = np.zeros((conditions, systems, seeds, len(SCORES)))
    for k, s, r in np.ndindex(conditions, systems, seeds):
        here = rows[scored[rows, k]]
        confusion = metrics.confusion_matrix(labels[here], guesses[here, s, r, k], 3)
        recalls = metrics.recalls(confusion)
        weighted = metrics.weighted_f1(confusion)
        made[k, s, r] = *metrics.scores(confusion), weighted, recalls[0], recalls[2]
    made = made.mean(axis=2)
    return np.stack([*made[:-1], made[:-1].mean(axis=0), made[-1]])


@pytest.mark.filterwarnings("error")
def test_it_equals_copying_the_utterances_of_each_resample_also_where_classes_are_lacking(rng):
    num, shape = 40, (2, 3, 3)
    cluster = np.sort(rng.permutation(np.arange(num) % 8))
    labels = np.where(cluster < 6, 0, rng.integers(1, 3, num))  # a and c lack in some resamples
    guesses = rng.integers(0, 3, (num, *shape))
    scored = np.ones((num, 3), bool)
    scored[cluster < 7, 1] = False  # and all of the second condition in some others
    sample = sample_of(cluster, labels, guesses, scored)
    made = bootstrap.resample(sample, SCORES, 60)
    chosen = np.random.default_rng(0).integers(8, size=(60, 8))
    wanted = [naive(cluster, labels, guesses, scored, c) for c in chosen]
    np.testing.assert_allclose(made, wanted)
    assert np.isnan(made[..., 5]).any() and np.isnan(made[:, 1, 0, 0]).any()
    assert not np.isnan(made[:, 0, :, :2]).any()  # UAR is that of the classes that are there
    found = bootstrap.test(made[:, :, 1] - made[:, :, 0], 8)
    assert not np.isnan(found.p_value[..., :4]).any() and np.isnan(found.p_value[1, 4])


def test_more_resamples_than_fit_at_once_are_the_same_ones(rng):
    guesses = rng.integers(0, 3, (30, 2, 1, 2))
    sample = sample_of(np.arange(30) % 6, rng.integers(0, 3, 30), guesses)
    many = bootstrap.resample(sample, SCORES, 2 * bootstrap._TOGETHER + 7)
    np.testing.assert_array_equal(bootstrap.resample(sample, SCORES, 100), many[:100])
    assert len(many) == 2 * bootstrap._TOGETHER + 7


def test_predictions_are_counted_by_cluster_system_and_seed(tmp_path):
    folders = [
        results_folder.write(tmp_path / s, folds=1, system=s, curves=(0.5,))
        for s in ("mmin", "cmarr")
    ]
    sample = bootstrap.read(folders)
    assert sample.unit == "groups (dialogues or videos)" and sample.classes[0] == "ang"
    wanted = np.zeros((12, 2, 2, 7, 3, 4))
    conditions = ["t", "s", "v", "vt", "sv", "st", "svt"]
    for s, at in enumerate(folders):
        for row in rows_of(at):
            if "=" not in row["condition"]:
                cell = int(row["group"].split()[1]), s, int(row["seed"])
                cell = *cell, conditions.index(row["condition"])
                label, guess = (sample.classes.index(row[c]) for c in ("label", "predicted"))
                wanted[*cell, 0, label] += label == guess
                wanted[*cell, 1, guess] += 1
                wanted[*cell, 2, label] += 1
    assert list(rows_of(folders[0])[0])[-3:] == ["probabilities", "speaker", "group"]
    # Names are sorted, so that dialogue 10 comes before dialogue 2.
    order = np.argsort([f"dialogue {c}" for c in range(12)])
    np.testing.assert_array_equal(sample.counts, wanted[order])


def rows_of(workdir):
    with open(os.path.join(workdir, "predictions.csv"), newline="") as f:
        return list(csv.DictReader(f))


def rewritten(workdir, change):
    rows = [change(dict(row)) for row in rows_of(workdir)]
    write_csv(os.path.join(workdir, "predictions.csv"), rows)


def test_speakers_are_drawn_where_an_utterance_has_no_group(tmp_path):
    made = results_folder.write(tmp_path / "a", folds=1, seeds=1, num=60)
    rewritten(made, lambda r: r | {"group": "" if r["id"] == "u007" else r["group"]})
    sample = bootstrap.read([made])
    assert sample.unit == "speakers" and len(sample.counts) == 5


def without_columns(row):
    return {k: v for k, v in row.items() if k not in ("speaker", "group")}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            without_columns,
            r"predictions.csv: names neither group nor speaker .* older versions; del",
        ),
        (
            lambda r: r | {"group": "one"},
            r"predictions.csv: 1 groups \(dialogues or videos\) .* are no sample",
        ),
        (lambda r: r | {"group": ""}, "predictions.csv: 4 speakers in one test part are no sample"),
        (lambda r: r | {"group": "", "speaker": ""}, "names neither group nor speaker"),
    ],
)
def test_too_few_clusters_or_none_are_one_line(tmp_path, change, message):
    made = results_folder.write(tmp_path / "a", folds=1, seeds=1)
    rewritten(made, change)
    with pytest.raises(UserError, match=message):
        bootstrap.read([made])


def test_other_utterances_or_none_are_one_line(tmp_path):
    one, other = (
        results_folder.write(tmp_path / s, folds=1, seeds=1, system=s) for s in ("mmin", "cmarr")
    )
    rewritten(other, lambda r: r | {"id": r["id"].replace("u007", "v007")})
    with pytest.raises(UserError, match=r"cmarr was tested on other utterances than .*mmin"):
        bootstrap.read([one, other])
    os.remove(os.path.join(other, "predictions.csv"))
    with pytest.raises(UserError, match=r"predictions.csv: missing"):
        bootstrap.read([one, other])


def test_equal_predictions_have_p_1_and_copies_of_a_seed_change_nothing(rng):
    cluster, labels = np.arange(60) % 10, rng.integers(0, 3, 60)
    guesses = rng.integers(0, 3, (60, 2, 1, 2))
    guesses[:, 1, :, 0] = guesses[:, 0, :, 0]
    one, ten = (
        bootstrap.resample(sample_of(cluster, labels, g), SCORES, 400)
        for g in (guesses, guesses.repeat(10, axis=2))
    )
    np.testing.assert_allclose(one, ten, rtol=1e-12)
    found = [bootstrap.test(x[:, :, 1] - x[:, :, 0], 10) for x in (one, ten)]
    for each in found:
        assert (each.p_value[0] == 1).all() and (each.interval[:, 0] == 0).all()
        assert 0.01 < each.p_value[2, 1] < 1
    np.testing.assert_array_equal(found[0].p_value, found[1].p_value)


def alike(rng, groups, shift=0.0, deviation=1.0):
    """Two systems that recognise alike often but for `shift`, each some clusters better than others."""
    cluster = np.repeat(np.arange(groups), 2 + rng.geometric(1 / 8, groups))
    labels = rng.integers(0, 3, len(cluster))
    skill = deviation * rng.normal(size=(groups, 2))[cluster] + [0, shift]
    right = skill + rng.normal(size=(len(cluster), 2)) + 0.3 > 0
    guesses = np.where(right, labels[:, None], (labels[:, None] + 1) % 3)
    return cluster, labels, guesses[:, :, None, None].repeat(2, axis=3)


def uar_p(cluster, labels, guesses):
    made = bootstrap.resample(sample_of(cluster, labels, guesses), ["uar"], 300)[:, -1, :, 0]
    return bootstrap.test(made[:, 1] - made[:, 0], cluster.max() + 1).p_value


def test_systems_that_are_alike_differ_once_in_twenty_by_clusters_and_far_oftener_by_utterances(
    rng,
):
    by_cluster, by_utterance = [], []
    for sweep in range(250):
        cluster, labels, guesses = alike(rng, 25)
        by_cluster.append(uar_p(cluster, labels, guesses))
        if sweep < 40:
            by_utterance.append(uar_p(np.arange(len(labels)), labels, guesses))
    assert 0.01 < np.mean(np.array(by_cluster) < 0.05) < 0.09  # three deviations of 250 draws
    assert np.mean(np.array(by_utterance) < 0.05) > 0.2


def test_a_difference_is_found(rng):
    p = [uar_p(*alike(rng, 30, shift=1.5)) for _ in range(50)]
    assert np.mean(np.array(p) < 0.05) > 0.9


def drawn_means(rng, groups, sims, shift=0.0, draws=2000):
    """Means of resamples of clusters whose differences are normal, `[draws, sims]`."""
    times = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)
    return times @ rng.normal(shift, 1, (groups, sims)) / groups


@pytest.mark.parametrize("groups", [8, 12, 30])
def test_of_few_clusters_p_and_interval_are_wide_enough_and_say_the_same(rng, groups):
    """Percentiles as they are would reject 8 % of the time for 12 clusters, 12 % for 8."""
    drawn = drawn_means(rng, groups, 3000)
    found = bootstrap.test(drawn, groups)
    assert 0.035 < np.mean(found.p_value < 0.05) < 0.075
    low, high = found.interval
    excludes = (low > 0) | (high < 0)
    assert np.mean(excludes == (found.p_value < 0.05)) > 0.99
    plain = 2 * np.minimum((drawn <= 0).mean(axis=0), (drawn >= 0).mean(axis=0))
    assert np.mean(plain < 0.05) > np.mean(found.p_value < 0.05)


def test_a_detectable_difference_is_found_four_times_in_five(rng):
    groups = 25
    shift = paired.detectable_errors(groups - 1) / np.sqrt(groups)
    found = bootstrap.test(drawn_means(rng, groups, 3000, shift), groups)
    assert np.mean(found.p_value < paired.LEVEL) == pytest.approx(paired.POWER, abs=0.03)
    assert np.median(found.detectable) == pytest.approx(shift, rel=0.05)


def test_a_score_that_is_nowhere_defined_is_not_tested(rng):
    drawn = rng.normal(size=(100, 2))
    drawn[:, 0], drawn[::3, 1] = np.nan, np.nan
    found = bootstrap.test(drawn, 10)
    assert np.isnan([found.p_value[0], *found.interval[:, 0], found.detectable[0]]).all()
    alone = bootstrap.test(drawn[~np.isnan(drawn[:, 1]), 1:], 10)
    np.testing.assert_array_equal(found.interval[:, 1], alone.interval[:, 0])
    assert found.p_value[1] == alone.p_value[0]
