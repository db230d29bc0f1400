import csv
import io
import shutil
import subprocess

import numpy as np
import pytest
import scipy.stats

from cmarr_jax.errors import UserError
from cmarr_jax.results import bootstrap, classes, latex, paired, rows, tables
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
                            "n": "100", "war": str(score), "uar": str(score - 0.1),
                            "n_train": "250",
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
    assert (table.p_value[2, 0] < 0.05).all() and np.isnan(table.p_value[:, 2]).all()


def test_each_column_is_tested_over_folds_whose_seeds_are_averaged(rng):
    results = make_results(rng, {"mmin": 0, "cra": 1, "cmarr": 2})
    table = tables.compare(results, ["mmin", "cra", "cmarr"])
    for c, condition in enumerate(CONDITIONS):
        of_fold = {}
        for row in results:
            if row["condition"] == condition:
                sign = {"cmarr": 1, "mmin": -1}.get(row["system"], 0)
                of_fold[row["fold"]] = of_fold.get(row["fold"], 0) + sign * float(row["war"]) / 2
        differences = 100 * np.array([*of_fold.values()])
        error = np.sqrt((1 / 3 + 100 / 250) * differences.var(ddof=1))
        p = 2 * scipy.stats.t.sf(abs(differences.mean()) / error, 2)
        row = c if condition != "st" else -1
        other = table.p_value[row, 1, 0]
        np.testing.assert_allclose(table.p_value[row, 0, 0], p if other < p else min(2 * p, 1))
    caption = tables.caption_of(table)
    assert "over the 3 folds, each the mean of its seeds" in caption
    assert f"below {table.detectable[0]:.1f} of WAR, {table.detectable[1]:.1f} of UAR" in caption


def test_seeds_do_not_make_a_difference_surer(rng):
    """Ten copies of each fold's one seed are no ten samples."""
    one = [r for r in make_results(rng, {"mmin": 0, "cmarr": 2}) if r["seed"] == "0"]
    ten = [row | {"seed": str(s)} for row in one for s in range(10)]
    few, many = (tables.compare(rows, ["mmin", "cmarr"]) for rows in (one, ten))
    np.testing.assert_allclose(few.p_value, many.p_value)
    np.testing.assert_allclose(few.half_width, many.half_width)


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


def test_systems_are_rows_unless_conditions_are_asked_for(rng):
    table = tables.compare(make_results(rng, {"mmin": 0, "cmarr": 9}), ["mmin", "cmarr"])
    by_system = [line.split() for line in tables.render(table, "text").splitlines()]
    assert [line[:2] for line in by_system[2:5]] == [
        ["WAR", "%"],
        ["MMIN", by_system[3][1]],
        ["CM-ARR", by_system[4][1]],
    ]
    assert by_system[2][2:] == [
        "{t}", "{s}", "avg", "full", "{s,t}", "p", "of", "avg", "p", "of", "full",
    ]  # fmt: skip
    assert by_system[6][0] == "UAR"
    other = tables.render(table, "text", rows="conditions").splitlines()
    assert other[2].split() == ["WAR", "%", "MMIN", "CM-ARR"]
    assert [line.split()[0] for line in other[3:8]] == ["{t}", "{s}", "avg", "full", "p"]
    grid = [
        line.strip("|").split(" | ") for line in tables.render(table, "markdown").splitlines()[:4]
    ]
    assert len({len(row) for row in grid}) == 1


def test_small_p_values_and_the_test_are_named(rng):
    assert tables.p_text(0.0004) == "< 0.001" and tables.p_text(0.001) == "0.001"
    assert tables.p_text(float("nan")) == ""
    table = tables.compare(make_results(rng, {"mmin": 0, "cmarr": 90}), ["mmin", "cmarr"])
    for style in ("text", "markdown", "latex"):
        text = tables.render(table, style)
        for words in (
            "Nadeau and Bengio's corrected paired t-test", "each the mean of its seeds. ",
            "against those of CM-ARR", "WAR and UAR",
        ):  # fmt: skip
            assert words in text, style
        assert "Holm" not in text  # one comparison wants no correction
        assert "0.000" not in text and ("< 0.001" in text or "$<$0.001" in text)
    one_fold = [r for r in make_results(rng, {"mmin": 0, "cmarr": 9}) if r["fold"] == "1"]
    text = tables.render(tables.compare(one_fold, ["mmin", "cmarr"]), "text")
    assert "Not tested: one fold is no sample" in text and "p of avg" not in text


def test_a_correction_is_named_where_there_are_several_comparisons(rng):
    three = make_results(rng, {"mmin": 0, "cra": 2, "cmarr": 9})
    text = tables.caption_of(tables.compare(three, ["mmin", "cra", "cmarr"]))
    assert "seeds, with Holm's correction over 2 comparisons in each column. " in text
    one = [r for r in three if (r["fold"], r["seed"]) == ("1", three[0]["seed"])]
    assert "mean over 1 run. " in tables.caption_of(tables.compare(one, ["mmin", "cmarr"]))


def test_intervals_of_differences_are_those_that_the_test_rejects_at(rng):
    table = tables.compare(make_results(rng, {"mmin": 0, "cmarr": 2}), ["mmin", "cmarr"])
    low, high = table.interval
    middle = table.mean[:, 1] - table.mean[:, 0]
    np.testing.assert_allclose((low + high)[:, 0] / 2, middle)
    np.testing.assert_array_equal(low[:, 0] * high[:, 0] > 0, table.p_value[:, 0] < 0.05)
    row = next(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    assert list(row)[-4:] == ["low_war", "high_war", "low_uar", "high_uar"]
    np.testing.assert_allclose(float(row["high_uar"]), high[0, 0, 1], atol=1e-4)


@pytest.fixture(scope="module")
def one_fold(tmp_path_factory):
    """Three systems of an official split, the last the best; 20 dialogues of 5 speakers."""
    made = str(tmp_path_factory.mktemp("one") / "fold")
    members = ("mmin", "cra", "cmarr")
    return results_folder.write_table(made, members, folds=1, seeds=2, num=80), members


def compared(one_fold, scores=("war", "uar")):
    workdir, members = one_fold
    folders = [f"{workdir}/{m}" for m in members]
    return tables.compare(rows.read_results(workdir), members, scores, folders)


def test_one_fold_is_tested_by_its_dialogues_and_the_caption_says_so(one_fold):
    table = compared(one_fold)
    sample = bootstrap.read([f"{one_fold[0]}/{m}" for m in one_fold[1]])
    drawn = 100 * bootstrap.resample(sample, ["war", "uar"])
    for k in range(2):
        p = [bootstrap.test(drawn[:, -2, -1, k] - drawn[:, -2, s, k], 20).p_value for s in (0, 1)]
        np.testing.assert_allclose(table.p_value[-2, :2, k], paired.holm(np.array(p)))
    assert np.isnan(table.p_value[:, 2]).all() and table.clusters == 20
    low, high = table.interval[:, :, :2]
    middle = table.mean[:, 2:] - table.mean[:, :2]
    assert (low <= middle).all() and (middle <= high).all()
    caption = tables.caption_of(table)
    for words in (
        "paired bootstrap over the 20 groups (dialogues or videos) of the one test part",
        "10,000 resamples", "against those of CM-ARR", "Holm's correction over 2 comparisons", "not of training anew",
        f"below {table.detectable[0]:.1f} of WAR",
    ):  # fmt: skip
        assert words in caption
    assert "optimistic" not in caption and "Nadeau" not in caption
    for style in ("text", "markdown"):
        assert "p of avg" in tables.render(table, style)
    assert "$p$ avg" in tables.render(table, "latex")
    np.testing.assert_array_equal(table.p_value, compared(one_fold).p_value)  # a table repeats


def test_one_fold_of_few_clusters_is_called_optimistic(one_fold):
    few = compared(one_fold)._replace(clusters=19)
    assert "Fewer than 20 are few: such a p is optimistic." in tables.caption_of(few)


def test_other_scores_of_one_fold_are_tested_too(one_fold):
    workdir, members = one_fold
    found = [classes.rows(f"{workdir}/{m}") for m in members]
    scores = classes.columns(["weighted_f1", "macro_f1", "recall"], found[0][1])
    every = [row for of_member, _ in found for row in of_member]
    table = tables.compare(every, members, scores, [f"{workdir}/{m}" for m in members])
    assert not np.isnan(table.p_value[:, :2]).any()
    middle = table.mean[:, 2:] - table.mean[:, :2]
    assert ((table.interval[0, :, :2] <= middle) & (middle <= table.interval[1, :, :2])).all()


def test_one_fold_without_its_predictions_says_why_it_is_not_tested(tmp_path):
    members = ("mmin", "cmarr")
    workdir = results_folder.write_table(tmp_path / "a", members, folds=1, seeds=1)
    shutil.rmtree(f"{workdir}/mmin")
    text = tables.render(compared((workdir, members)), "text")
    assert f"Not tested: {workdir}/mmin/predictions.csv: missing; copy" in text
    assert "p of avg" not in text


EIGHT = ("no_attention", "paper_nll", "mmin", "if_mmin", "cif_mmin", "dicmor", "nmer", "cmarr")
OWN = ("train.learning_rate=0.0001 & 50% of_all {x} ^~\\ #$ <a>", "model.width=256", "cmarr")


def eight(rng, conditions, members=EIGHT):
    """A comparison with every number as wide as it gets."""
    shape = (len(conditions) + 1, len(members), 2)
    mean = rng.uniform(40, 99, shape)
    spread = rng.uniform(1, 9.9, shape)
    rows = [*conditions[:-1], "avg", f"full {conditions[-1]}"]
    p, found = np.full(shape, 0.0001), np.ones(2)
    return tables.Comparison(
        rows, list(members), mean, spread, spread, p, np.stack([p, p]), found, 15, "IEMOCAP & co (4_way); 5 folds by session",
        5, ("war", "uar"),
    )  # fmt: skip


THREE = ("t", "s", "v", "vt", "sv", "st", "svt")
CASES = [
    (members, conditions, rows)
    for members in (EIGHT, OWN)
    for conditions in (THREE, ("t", "s", "st"))
    for rows in tables.ROWS
]


@pytest.mark.parametrize("members, conditions, rows", CASES)
def test_a_latex_table_is_as_wide_as_its_column_by_estimate(rng, members, conditions, rows):
    text = tables.render(eight(rng, conditions, members), "latex", rows=rows)
    first, *lines = text.splitlines()
    assert first.startswith(r"% needs \usepackage{booktabs}")
    assert lines[2] == r"\label{tab:iemocap-co-4-way}"
    assert (r"\resizebox" in text) == ("graphicx" in first)
    if members == EIGHT and (rows, conditions) != ("conditions", THREE):
        assert r"\resizebox" not in text
    assert all(line.count(" & ") == lines[6].count(" & ") for line in lines if " & " in line[1:3])
    # A number with two digits, two decimals and a deviation: by hand in Computer Modern, 8 points.
    cell = latex.width([[["$p$", r"64.41$_{\pm2.43}$"]]], 8)
    assert 38 < cell < 60


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
def test_a_latex_table_compiles_without_an_overfull_box(rng, tmp_path):
    made = "\n".join(
        tables.render(eight(rng, conditions, members), "latex", rows=rows)
        for members, conditions, rows in CASES
    )
    (tmp_path / "paper.tex").write_text(
        r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx}"
        rf"\usepackage[textwidth={latex.TWO_COLUMNS}pt]{{geometry}}"
        rf"\setlength{{\columnsep}}{{{latex.TWO_COLUMNS - 2 * latex.COLUMN}pt}}"
        rf"\begin{{document}}x\clearpage{made}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert ran.returncode == 0, log[-2000:]
    # Boxes of tables alone: a caption's text may break badly in a narrow column.
    assert [line for line in log.splitlines() if line.startswith("Overfull")] == []


def test_lines_along_missing_rates_begin_at_complete_data(rng):
    results = make_results(rng, {"mmin": 0, "cmarr": 5})
    extra = [
        row | {"condition": f"missing={x}", "war": str(float(row["war"]) - x / 10)}
        for row in results
        if row["condition"] == "st"
        for x in (0.7, 0.3)
    ]
    made = tables.curves(results + extra, ["mmin", "cmarr"])
    assert list(made) == ["missing"] and made["missing"].points == [0, 0.3, 0.7]
    lines = made["missing"]
    full = tables.compare(results, ["mmin", "cmarr"])
    np.testing.assert_allclose(lines.mean[0], full.mean[-1])
    np.testing.assert_allclose(lines.mean[2, :, 0], full.mean[-1, :, 0] - 7)
    np.testing.assert_allclose(lines.high[0] - lines.mean[0], full.half_width[-1])
    with pytest.raises(UserError, match=r"mmin was not tested under missing=0\.3"):
        tables.curves(results + [r for r in extra if r["system"] == "cmarr"], ["mmin", "cmarr"])


def test_an_own_system_goes_by_its_name(rng):
    results = make_results(rng, {"cmarr": 0, "late_fusion": 9})
    for row in results:
        if row["system"] == "late_fusion":
            row["variant"] = "pooled,system=late_fusion"
    table = tables.compare(results, ["cmarr", "late_fusion"])
    assert table.mean[2, 1, 0] > table.mean[2, 0, 0] + 5 and table.p_value[2, 0, 0] < 0.05


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
