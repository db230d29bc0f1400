"""The recovery map fills its table cell by cell, resumes, says what it costs, and draws it."""

import csv
import os

import matplotlib.pyplot as plt
import numpy as np
import pytest

from benchmarks import recovery_figure, recovery_map
from benchmarks.recovery_figure import MAIN, PARTS, Cell
from cmarr_jax.results import intervals
from cmarr_jax.runtime.files import write_csv

SMALL = ["--shared", "0", "1", "--utterances", "600", "--systems", "cmarr", "augmented"]


def row(cell, uars=(0.5, 0.6, 0.7), **more):
    """As the command writes it."""
    error = "" if cell.system in ("augmented", "full_modality") else "0.900000"
    made = {**cell._asdict(), "noise": 1.0, "length": 32, "epochs": 0, "seeds": 1}
    scores = dict.fromkeys(recovery_map._SCORES, f"{np.mean(uars):.6f}") | {"rec_error": error}
    folds = " ".join(f"{fold + 1}={x:.6f}" for fold, x in enumerate(uars))
    made |= scores | {f"{name}_std": "0.010000" for name in scores}
    made |= {"fold_avg_uar": folds, "test_over_train": "0.280000", "runs": len(uars)}
    return made | {"seconds": 7.0, "device": "a device", "corpus": "0" * 16} | more


@pytest.fixture
def trained(monkeypatch):
    """The cells that were trained, in order; none really is."""
    seen = []

    def train(args, cell, device):
        seen.append(cell)
        return row(cell, device=device)

    monkeypatch.setattr(recovery_map, "train", train)
    monkeypatch.setattr(recovery_map, "find_device", lambda: ("a device", "cpu"))
    return seen


def run(out, *flags):
    return recovery_map.main([f"--out={out}", *flags])


def table(out):
    with open(os.path.join(out, "recovery_map.csv"), encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def test_cells_in_the_table_are_left_alone(tmp_path, trained, capsys):
    assert run(tmp_path, *SMALL) == 0
    wanted = [Cell(s, 600, name) for s in (0.0, 1.0) for name in ("cmarr", "augmented")]
    assert trained == wanted
    said = capsys.readouterr().out
    assert "600 utterances, shared 1, augmented: avg_war 60.0, avg_uar 60.0" in said
    kept = table(tmp_path)[:3]
    write_csv(str(tmp_path / "recovery_map.csv"), kept)
    trained.clear()
    assert run(tmp_path, *SMALL) == 0
    assert trained == wanted[3:]
    assert table(tmp_path)[:3] == kept and len(table(tmp_path)) == 4
    assert "4 cells, 3 of them in the table" in capsys.readouterr().out


def test_no_cell_is_begun_that_would_not_end_in_time(tmp_path, trained, capsys):
    """7 s a cell are known of the system on this device; 0.1 minutes are 6."""
    write_csv(str(tmp_path / "recovery_map.csv"), [row(Cell(0.5, 600, "cmarr"))])
    flags = ["--shared", "0.5", "1", "--utterances", "600", "--systems", "cmarr"]
    assert run(tmp_path, *flags, "--minutes=0.1") == 0
    assert trained == [] and "shared 1, cmarr: not begun" in capsys.readouterr().out
    assert run(tmp_path, *flags, "--minutes=1") == 0
    assert trained == [Cell(1.0, 600, "cmarr")]


def test_a_dry_run_writes_nothing_and_counts_every_cell(tmp_path, trained, capsys):
    out = tmp_path / "new"
    assert run(out, "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "135 cells, 0 of them in the table" and len(said) == 137
    assert "nothing was written" in said[-1]
    assert run(out, "--dry-run", "--grid=small") == 0
    assert capsys.readouterr().out.startswith("24 cells")
    assert trained == [] and not out.exists()


def test_every_size_is_updated_as_often(tmp_path):
    parser_defaults = {"epochs": 0, "length": 32, "seeds": 2}
    args = type("Args", (), parser_defaults)
    updates = []
    for size in (600, 2000, 6000):
        config = recovery_map.make_config(args, Cell(0.0, size, "mmin"))
        assert config.data.length == 32 and config.num_seeds == 2 and config.system == "mmin"
        updates.append([size * config[s].epochs for s in ("train", "pretrain")])
    np.testing.assert_allclose(updates, [updates[-1]] * 3, rtol=0.01)
    assert updates[-1] == [6000 * 12, 6000 * 12]  # configs/demo.py's epochs


@pytest.mark.parametrize(
    "flags, wanted",
    [
        (["--shared", "2"], "--shared=2: wanted a share"),
        (["--systems", "nobody"], "nobody"),
        (["--systems", "table3"], "name them"),
        (["--seeds=0"], "--seeds=0: wanted 1 or more"),
        (["--seeds=3"], "its cells have --seeds=1, not 3"),
        (["--length=8"], "its cells have --length=32, not 8"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(tmp_path, trained, capsys, flags, wanted):
    write_csv(str(tmp_path / "recovery_map.csv"), [row(Cell(0.5, 600, "cmarr"))])
    assert run(tmp_path, *flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and wanted in said and said.count("\n") == 1
    assert trained == [] and os.listdir(tmp_path) == ["recovery_map.csv"]


def test_a_damaged_table_is_named(tmp_path, trained, capsys):
    (tmp_path / "recovery_map.csv").write_text("shared,utterances\n0,many\n")
    assert run(tmp_path, *SMALL) == 2
    assert "recovery_map.csv: damaged" in capsys.readouterr().err


def test_a_gain_is_paired_by_fold():
    """Folds that differ much and a gain that does not: the interval is that of the gain."""
    ours, theirs = (
        row(Cell(0, 600, "cmarr"), (0.5, 0.6, 0.7)),
        row(Cell(0, 600, "x"), (0.4, 0.5, 0.5)),
    )
    mean, half = recovery_figure.gain(ours, theirs)
    np.testing.assert_allclose(mean, 100 * 0.4 / 3)
    wanted = intervals.half_width(np.array([10, 10, 20]), 0.28)
    np.testing.assert_allclose(half, wanted)
    other = theirs | {"fold_avg_uar": "1=0.4 2=0.5"}  # a run of the third was stopped
    assert np.isnan(recovery_figure.gain(ours, other)[1])


def test_the_figure_shows_what_the_table_holds(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        row(Cell(shared, size, name), rng.uniform(0.5, 0.7, 5))
        for size in (600, 2000)
        for shared in (0.0, 1.0)
        for name in (*MAIN, *PARTS)
        if (size, shared, name) != (2000, 1.0, "mmin")  # not trained yet
    ]
    figure = recovery_figure.draw(rows)
    panels = np.array(figure.axes).reshape(4, 2)
    assert [axes.get_title() for axes in panels[0]] == ["600 utterances", "2,000 utterances"]
    drawn = {line.get_label(): line for line in panels[0, 1].lines}
    assert [*drawn] == ["ceiling", "CM-ARR", "Augmented", "Baseline", "MMIN"]
    assert [*drawn["MMIN"].get_xdata()] == [0] and [*drawn["CM-ARR"].get_xdata()] == [0, 1]
    of = {recovery_figure.cell_of(r): r for r in rows}
    wanted = [100 * float(of[Cell(s, 2000, "cmarr")]["avg_uar"]) for s in (0, 1)]
    np.testing.assert_allclose(drawn["CM-ARR"].get_ydata(), wanted)
    ends = drawn["ceiling"].get_ydata()[[0, -1]]
    np.testing.assert_allclose(ends, [100 * recovery_figure.ceiling(s) for s in (0, 1)])
    gains = {line.get_label(): line.get_ydata() for line in panels[1, 0].lines}
    augmented = recovery_figure.gain(*(of[Cell(0, 600, n)] for n in ("cmarr", "augmented")))[0]
    np.testing.assert_allclose(gains["Augmented"][0], augmented)
    assert "CM-ARR" not in gains
    assert len(panels[2, 0].containers) == len(PARTS)  # lines with error bars
    assert [*panels[3, 0].lines[-1].get_ydata()] == [1, 1]  # as bad as zeros
    errors = [line.get_label() for line in panels[3, 0].lines[:-1]]
    assert errors == ["CM-ARR", "MMIN"]  # the baselines recover nothing
    assert "35 cells, 5 folds, seeds a fold: 1; T = 32" in recovery_figure.caption(rows)
    plt.close(figure)


def test_the_figure_of_part_of_the_grid_has_no_empty_row_and_names_every_line():
    """The largest corpora come last: what only the small ones have is in the legend all the same."""
    cells = [Cell(0.0, 600, "cmarr"), Cell(0.0, 600, "augmented"), Cell(0.0, 2000, "augmented")]
    figure = recovery_figure.draw([row(cell) for cell in cells])
    panels = np.array(figure.axes).reshape(3, 2)
    titles = [line[0].get_ylabel().split("\n")[0] for line in panels]
    assert titles == ["avg UAR, %", "CM-ARR less", "relative"]  # no variant, no row of them
    named = [[t.get_text() for t in line[-1].get_legend().get_texts()] for line in panels]
    assert named == [["ceiling", "CM-ARR", "Augmented"], ["Augmented"], ["CM-ARR"]]
    plt.close(figure)
    figure = recovery_figure.draw([row(cells[1])])
    assert len(figure.axes) == 1
    plt.close(figure)


def test_the_figure_is_written_from_the_table(tmp_path, capsys):
    drawn = [str(tmp_path / f"map.{kind}") for kind in ("png", "pdf")]
    assert run(tmp_path, "--figure", *drawn) == 2
    assert "holds no cell yet" in capsys.readouterr().err
    write_csv(str(tmp_path / "recovery_map.csv"), [row(Cell(0.5, 600, "cmarr"))])
    assert run(tmp_path, "--figure", *drawn) == 0
    assert all(os.path.getsize(file) > 5000 for file in drawn)


@pytest.mark.slow
def test_a_corner_of_the_map_is_trained_and_goes_on(tmp_path, capfd):
    flags = ["--shared", "1", "--utterances", "100", "--length=2", "--epochs=1"]
    assert run(tmp_path, *flags, "--systems", "augmented") == 0
    assert run(tmp_path, *flags, "--systems", "augmented", "no_attention") == 0
    said = capfd.readouterr().out
    assert said.count("augmented: avg_war") == said.count("no_attention: avg_war") == 1
    first, second = table(tmp_path)
    assert first["corpus"] == second["corpus"] and first["rec_error"] == ""
    assert float(second["rec_error"]) > 0 and float(second["seconds"]) > 0
    assert first["runs"] == "5" and len(first["fold_avg_uar"].split()) == 5
    folds = recovery_figure.folds_of(second).values()
    np.testing.assert_allclose(np.mean([*folds]), float(second["avg_uar"]), atol=2e-6)
    assert 0.2 < float(first["test_over_train"]) < 0.4
