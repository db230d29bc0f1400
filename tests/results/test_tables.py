import csv
import io

import numpy as np
import pytest
import scipy.stats

from cmarr_jax.errors import UserError
from cmarr_jax.results import rows, tables
from tests.results import results_folder

CONDITIONS = ("t", "s", "st")


def make_results(rng, gains):
    """Rows of results.csv: `gains` are per cent above the first system, over 3 folds x 2 seeds."""
    rows, base = [], {}
    for name, gain in gains.items():
        system, variant = ("cmarr", name) if name.startswith("no_") else (name, "default")
        for fold in "123":
            for seed in "01":
                for condition in CONDITIONS:
                    key = (fold, seed, condition)
                    base.setdefault(key, rng.uniform(0.5, 0.6))
                    score = base[key] + (gain + rng.normal()) / 100
                    rows.append(
                        {
                            "corpus": "c", "system": system, "variant": f"pooled,{variant}",
                            "protocol": "p", "fold": fold, "seed": seed, "condition": condition,
                            "war": str(score), "uar": str(score - 0.1),
                        }
                    )  # fmt: skip
    return rows


def test_cells_are_means_and_deviations_over_the_runs(rng):
    results = make_results(rng, {"mmin": 0, "no_udcl": 1, "cmarr": 5})
    table = tables.compare(results, ["mmin", "no_udcl", "cmarr"])
    assert table.rows == ["t", "s", "avg", "full st"] and table.runs == 6
    mine = [float(r["war"]) for r in results if r["system"] == "mmin" and r["condition"] == "s"]
    np.testing.assert_allclose(table.mean[1, 0, 0], 100 * np.mean(mine))
    np.testing.assert_allclose(table.deviation[1, 0, 0], 100 * np.std(mine, ddof=1))
    np.testing.assert_allclose(table.mean[2], table.mean[:2].mean(axis=0))
    assert table.p_value[0, 0] < 0.05 and np.isnan(table.p_value[2]).all()


def test_the_paired_test_is_the_plain_one_less_its_optimism(rng):
    differences = rng.normal(0.5, 1, size=12)
    plain = scipy.stats.ttest_1samp(differences, 0).pvalue
    np.testing.assert_allclose(tables.paired_p_value(differences, 0.0), plain)
    corrected = tables.paired_p_value(differences, 0.25)
    statistic = differences.mean() / np.sqrt((1 / 12 + 0.25) * differences.var(ddof=1))
    np.testing.assert_allclose(corrected, 2 * scipy.stats.t.sf(statistic, 11))
    assert corrected > plain
    assert np.isnan(tables.paired_p_value(np.ones(4), 0.25))


def test_holm_by_hand():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(tables.holm(p), [0.03, np.nan, 0.06, 0.06])
    np.testing.assert_allclose(tables.holm(np.array([0.6, 0.9])), [1, 1])


@pytest.mark.parametrize("style", tables.FORMATS)
def test_every_format_shows_the_numbers_and_marks_the_best(rng, style):
    results = make_results(rng, {"mmin": 0, "cmarr": 9})
    table = tables.compare(results, ["mmin", "cmarr"])
    text = tables.render(table, style, {"cmarr": "CM-ARR"})
    best = f"{table.mean[0, 1, 0]:.2f}"
    if style == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == 8 and rows[1]["system"] == "cmarr"
        np.testing.assert_allclose(float(rows[1]["war"]), table.mean[0, 1, 0], atol=1e-4)
        return
    marked = {"text": f"*{best}", "markdown": f"**{best}**", "latex": rf"\textbf{{{best}}}"}
    assert marked[style] in text and "CM-ARR" in text and "6 runs" in text
    if style == "latex":
        assert text.count(r"\begin{") == text.count(r"\end{") == 2
        assert r"full \{s,t\}" in text


def test_an_own_system_goes_by_its_name(rng):
    results = make_results(rng, {"cmarr": 0, "late_fusion": 9})
    for row in results:
        if row["system"] == "late_fusion":
            row["variant"] = "pooled,system=late_fusion"
    table = tables.compare(results, ["cmarr", "late_fusion"])
    assert table.mean[2, 1, 0] > table.mean[2, 0, 0] + 5 and table.p_value[0, 0] < 0.05


def test_what_is_missing_is_named(rng):
    results = make_results(rng, {"mmin": 0, "cmarr": 9})
    with pytest.raises(UserError, match="but not cra"):
        tables.compare(results, ["cra", "cmarr"])
    uneven = [r for r in results if (r["system"], r["fold"]) != ("mmin", "3")]
    with pytest.raises(UserError, match="other folds or seeds"):
        tables.compare(uneven, ["mmin", "cmarr"])
    with pytest.raises(UserError, match="--format=html"):
        tables.render(tables.compare(results, ["mmin", "cmarr"]), "html", {})


def test_a_tables_members_go_by_any_names_in_its_results(tmp_path):
    """Also where two members are one system, or a name is another member's system."""
    names = {
        "mmin": {},
        "late fusion (ours), β=1": {"system": "mmin"},
        "x_1": {"variant": "pooled"},
    }
    for name, kind in names.items():
        results_folder.write(tmp_path / name, **kind)
    rows.join(str(tmp_path), [str(tmp_path / name) for name in names], missing=0)
    joined = rows.read_results(str(tmp_path))
    assert list(joined[0])[-1] == "sweep"  # the columns before it are as they always were
    table = tables.compare(joined, list(names))
    assert table.columns == list(names)
    for j, name in enumerate(names):
        own = [
            float(r["war"])
            for r in rows.read_results(str(tmp_path / name))
            if r["condition"] == "t"
        ]
        np.testing.assert_allclose(table.mean[0, j, 0], 100 * np.mean(own))
    for style in tables.FORMATS:
        shown = tables.render(table, style, {})
        assert "late fusion (ours)" in shown
