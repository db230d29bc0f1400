import types

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.results import figures, folder, summary
from tests.results import results_folder


@pytest.fixture(scope="module")
def r(tmp_path_factory):
    return folder.load(results_folder.write(tmp_path_factory.mktemp("figures") / "a"))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_cross_over_is_a_half_for_one_cloud_and_zero_for_two(rng):
    a, b = rng.normal(size=(2, 300, 4))
    assert abs(figures.cross_over(a, b) - 0.5) < 0.03
    assert figures.cross_over(a, b + 50) == 0


def test_bars_are_the_estimates_beside_the_majority(r):
    (axes,) = figures.conditions(r).axes
    made = folder.estimates(r)
    war, uar = (c for c in axes.containers if type(c).__name__ == "BarContainer")
    (majority,) = (c for c in axes.collections if c.get_label() == "majority class, WAR")
    names = [*r.conditions[:-1], "avg", "svt"]
    for bars, score in ((war, "war"), (uar, "uar")):
        heights = [100 * made[name][score].mean for name in names]
        np.testing.assert_allclose([b.get_height() for b in bars], heights)
    assert len(majority.get_segments()) == len(names)
    np.testing.assert_allclose(majority.get_segments()[-1][:, 1], 25)
    (low, high), *_ = war.errorbar.get_children()[-1].get_segments()
    np.testing.assert_allclose((low[1], high[1]), [100 * x for x in made["t"]["war"][1:]])


def test_reconstruction_bars_stand_where_a_modality_is_missing(r):
    (axes,) = figures.reconstruction(r).axes
    bars = [c for c in axes.containers if type(c).__name__ == "BarContainer"]
    assert [len(b) for b in bars] == [3, 3, 3]  # text is missing in s, v and sv
    mine = [
        float(x["rec_error"])
        for x in r.reconstruction
        if (x["condition"], x["modality"]) == ("v", "text")
    ]
    assert len(mine) == 6
    np.testing.assert_allclose(bars[0].patches[1].get_height(), np.mean(mine))
    # However many bars a condition has, they stand in the middle of its name.
    ends = {name: [] for name in ("s", "v", "t", "vt", "sv", "st")}
    labels = [text.get_text() for text in axes.get_xticklabels()]
    for bar in (b for container in bars for b in container):
        middle = bar.get_x() + bar.get_width() / 2
        ends["".join(c for c in labels[round(middle)] if c in "svt")].append(middle)
    for k, (_, middles) in enumerate(sorted(ends.items(), key=lambda e: np.mean(e[1]))):
        np.testing.assert_allclose(np.mean(middles), k, atol=1e-9)


def test_loss_weights_are_sorted_lines(r):
    rows = [
        {
            "variant": f"pooled,{name}={weight}", "condition": condition, "runs": "5",
            "war": str(weight / 20), "war_std": "0.02", "uar": "0.55", "uar_std": "",
        }
        for name in ("alpha", "beta", "lambda")
        for weight in (10.0, 0.1, 1.0)
        for condition in ("t", "avg")
    ]  # fmt: skip
    drawn = figures.loss_weights(rows).axes
    assert len(drawn) == 3
    np.testing.assert_allclose(drawn[0].lines[0].get_xdata().astype(float), [0.1, 1, 10])
    np.testing.assert_allclose(drawn[0].lines[0].get_ydata().astype(float), [0.5, 5, 50])
    with pytest.raises(UserError, match="no sweep of loss weights"):
        figures.loss_weights([row for row in rows if row["condition"] == "t"])


def test_representations_are_drawn_and_measured(rng):
    true = rng.normal(size=(2, 40, 5))
    recovered = np.stack([true[0] + 0.01, true[1] + 30])
    arrays = {"recovered": recovered, "true": true, "modalities": np.array(["text", "speech"])}
    overlap = figures.overlaps(arrays)
    assert overlap["text"] > 0.4 and overlap["speech"] == 0
    (axes,) = figures.representations(arrays).axes
    assert [len(line.get_xdata()) for line in axes.lines] == [40] * 4


def test_full_names_and_captions_say_n_folds_and_seeds(r):
    assert figures.sample(r) == "n = 48 test utterances, 3 folds, 2 seeds"
    assert summary.braces("vt") == "{v,t}" and summary.braces("missing=0.5") == "missing=0.5"
    assert summary.braces("full vt") == "full {v,t}" and summary.braces("avg") == "avg"
    one = types.SimpleNamespace(folds=[1])
    assert "bootstrap" in figures.interval_method(one)
