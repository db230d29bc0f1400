import matplotlib.pyplot as plt
import numpy as np
import pytest

from cmarr_jax.results import folder, panels, style
from tests.results import results_folder


@pytest.fixture(scope="module")
def r(tmp_path_factory):
    return folder.load(results_folder.write(tmp_path_factory.mktemp("panels") / "a"))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_a_confusion_shows_shares_of_the_true_class(r):
    _, axes = plt.subplots()
    panels.confusion(r, axes, "s")
    shown = np.array([int(t.get_text()) for t in axes.texts]).reshape(4, 4)
    counts = r.confusion[:, 1].sum(axis=0)
    np.testing.assert_allclose(shown, 100 * counts / counts.sum(axis=1, keepdims=True), atol=0.51)


def test_a_curve_is_a_line_a_fold_and_a_burst_makes_it_logarithmic(r):
    assert panels.curve_names(r) == [
        "train val_uar", "train val_cross_entropy", "train loss", "train cls",
        "teacher val_uar", "teacher val_cross_entropy", "teacher loss",
        "teacher imagined", "legend",
    ]  # fmt: skip
    _, axes = plt.subplots()
    panels.curve(r, axes, "train cls")
    assert len(axes.lines) == 3
    mine = [x for x in r.history if (x["stage"], x["fold"]) == ("train", "2")]
    by_epoch = [[float(x["cls"]) for x in mine if x["epoch"] == e] for e in "123"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), np.mean(by_epoch, axis=1))
    assert axes.get_yscale() == "log"  # epoch 2 is a million times larger
    _, axes = plt.subplots()
    panels.curve(r, axes, "train val_uar")
    assert axes.get_yscale() == "linear" and "validation UAR" in axes.get_title()


def luminance(colour):
    """Of a hex colour, relative, as WCAG defines it."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_lines_on_white_have_contrast_and_no_two_series_look_alike():
    for colour in style.SERIES:
        assert 1.05 / (luminance(colour) + 0.05) >= 3, colour  # WCAG 1.4.11
    strokes = {(panels._line(f)["linestyle"], panels._line(f)["marker"]) for f in range(12)}
    assert len(strokes) == 12  # twelve folds stay apart in greyscale
