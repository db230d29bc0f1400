"""`import cmarr_jax`: quick, small, from any folder, and the same code as the commands."""

import functools
import io
import itertools
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.transforms import Bbox

import cmarr_jax
from cmarr_jax import UserError
from cmarr_jax.cli import config_files
from cmarr_jax.experiment import run
from cmarr_jax.results.rows import read_results, read_summary
from cmarr_jax.results.summary import summary_table
from configs import common, demo
from tests import tiny
from tests.results import results_folder

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    kinds = {"ours": {}, "theirs": {"system": "mmin"}, "again": {}, "less": {"variant": "no_udcl"}}
    return {name: results_folder.write(root / name, **kind) for name, kind in kinds.items()}


@pytest.fixture
def ours(folders):
    return cmarr_jax.load(folders["ours"])


@pytest.fixture(autouse=True)
def _no_open_figures():
    matplotlib.use("agg")
    yield
    plt.close("all")


def python(code, folder, path=ROOT):
    environment = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_import_is_quick_and_brings_nothing(tmp_path):
    code = (
        "import sys, time; start = time.process_time(); import cmarr_jax; "
        "print(time.process_time() - start, {'jax', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    done = python(code, tmp_path)
    seconds, rest = done.stdout.split(" ", 1)
    assert float(seconds) < 0.2 and rest == "set()\n", done.stdout + done.stderr


def test_every_public_name_is_there_and_said():
    assert set(dir(cmarr_jax)) == {*cmarr_jax.__all__, "__version__"}
    for name in cmarr_jax.__all__:
        assert getattr(cmarr_jax, name).__doc__, name
    assert cmarr_jax.pack.__name__ == "cmarr_jax.data.pack"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        cmarr_jax.trian  # noqa: B018


def test_results_show_as_the_table_of_the_commands(ours, folders):
    assert repr(ours) == ours.table() == summary_table(read_summary(folders["ours"]))
    assert repr(ours.table()) == ours.table()  # without quotation marks and escapes


def test_a_data_frame_has_the_rows_of_the_file_as_numbers(ours, folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=dict))
    frame, rows = ours.to_dataframe(), read_results(folders["ours"])
    assert list(frame) == list(rows[0])
    assert frame["war"] == [float(row["war"]) for row in rows]
    assert np.isnan(frame["rec_error"][-1]) and isinstance(frame["fold"][0], int)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"^to_dataframe: pandas is missing; pip install pandas, "):
        ours.to_dataframe()


def test_predictions_are_columns_that_give_the_scores(ours):
    found = ours.predictions
    assert list(found)[:6] == ["id", "fold", "seed", "condition", "label", "predicted"]
    assert len({len(column) for column in found.values()}) == 1
    mine = (found["fold"] == 1) & (found["seed"] == 0) & (found["condition"] == "st")
    (row,) = [
        row
        for row in read_results(ours.workdir)
        if (row["fold"], row["seed"], row["condition"]) == ("1", "0", "st")
    ]
    right = found["label"][mine] == found["predicted"][mine]
    np.testing.assert_allclose(right.mean(), float(row["war"]), atol=1e-6)
    total = sum(found[f"p({c})"] for c in ("ang", "hap", "neu", "sad"))
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_predictions_that_are_not_there_are_one_line(tmp_path):
    os.remove(os.path.join(results_folder.write(tmp_path), "predictions.csv"))
    with pytest.raises(UserError, match=r"predictions.csv: missing"):
        cmarr_jax.load(tmp_path).predictions  # noqa: B018


@pytest.mark.parametrize("plot", ["plot_conditions", "plot_confusion", "plot_curves"])
def test_plots_are_drawn_into_axes_of_the_callers_or_a_figure_of_their_own(ours, plot):
    figure, (left, right) = plt.subplots(1, 2)
    assert getattr(ours, plot)(ax=right) is right
    assert right.has_data() and not left.has_data() and plt.get_fignums() == [figure.number]
    own = getattr(ours, plot)()
    assert own.figure is not figure and own.has_data()
    assert plt.get_fignums() == [figure.number, own.figure.number]  # open, for a notebook to show
    own.figure.savefig(io.BytesIO(), format="png")


def boxes(ax):
    """Where title, legend and all that is drawn of the scores lie, in pixels."""
    ax.get_figure().draw_without_rendering()
    drawn = [bar.get_window_extent() for bar in ax.patches]
    for lines in (c for c in ax.collections if hasattr(c, "get_segments")):
        drawn += [Bbox(ax.transData.transform(ends)) for ends in lines.get_segments()]
    return ax.title.get_window_extent(), ax.get_legend().get_window_extent(), drawn


def assert_the_legend_covers_nothing(ax):
    title, legend, drawn = boxes(ax)
    assert title.height > 1 and len(drawn) > 7
    assert legend.y1 <= title.y0 and max(box.y1 for box in drawn) <= legend.y0
    inside = ax.get_figure().bbox
    assert inside.y0 <= legend.y0 and title.y1 <= inside.y1


SHAPES = [
    {"ncols": 2, "figsize": (9, 3.2), "layout": "constrained"},
    {"ncols": 2},
    {"nrows": 2, "ncols": 2, "layout": "constrained"},
    {"nrows": 2, "figsize": (6, 7), "layout": "tight"},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_before", [True, False])
def test_a_legend_covers_neither_title_nor_bars(ours, shape, is_before):
    axes = np.ravel(plt.subplots(**shape)[1])
    for ax in axes[:2]:
        if is_before:
            ax.set_title("A title")
        ours.plot_conditions(ax=ax)
        ax.set_title("A title")
    for ax in axes[:2]:
        assert_the_legend_covers_nothing(ax)
    own = ours.plot_conditions()
    own.set_title("A title")
    assert_the_legend_covers_nothing(own)


@pytest.mark.parametrize("shape", SHAPES)
def test_names_below_the_bars_do_not_touch(ours, shape):
    ax = ours.plot_conditions(ax=np.ravel(plt.subplots(**shape)[1])[0])
    ax.figure.draw_without_rendering()
    at = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(at) == 8 and all(a.x1 < b.x0 for a, b in itertools.pairwise(at))


def test_axes_of_the_callers_get_the_style_of_all_figures(ours):
    ax, own = ours.plot_conditions(ax=plt.subplots()[1]), ours.plot_conditions()
    for each in (ax, own):
        assert not each.spines["top"].get_visible() and not each.spines["right"].get_visible()
        assert "95 % interval" in [text.get_text() for text in each.get_legend().get_texts()]
    for texts in zip(*([a.xaxis.label, *a.get_xticklabels()] for a in (ax, own)), strict=True):
        assert len({text.get_fontsize() for text in texts}) == 1
        assert len({text.get_color() for text in texts}) == 1
    assert plt.subplots()[1].spines["top"].get_visible()  # other figures keep theirs


def test_a_figure_that_its_caller_saves_has_fonts_that_publishers_take(ours):
    with matplotlib.rc_context({"pdf.fonttype": 3, "pdf.compression": 0}):
        file = io.BytesIO()
        ours.plot_conditions().figure.savefig(file, format="pdf")
    assert b"/Type3" not in file.getvalue() and b"/CIDFontType2" in file.getvalue()


@pytest.mark.parametrize(
    "classes",
    [
        ["negative", "positive"],
        ["ang", "hap", "neu", "sad"],
        ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"],
    ],
)
def test_a_matrix_is_large_enough_for_its_numbers_and_names(ours, classes, rng):
    num = len(classes)
    counts = rng.integers(1, 30, (6, 7, num, num))
    ours._arrays = ours.arrays._replace(classes=classes, confusion=counts)
    _, axes = plt.subplots(1, 2, layout="constrained")
    for ax in (ours.plot_confusion("st"), ours.plot_confusion("st", ax=axes[0])):
        ax.figure.draw_without_rendering()
        page, square = ax.figure.bbox, ax.get_window_extent()
        assert square.width >= 1.6 * ax.figure.dpi, square
        assert abs(square.width - square.height) < 2
        cells = [text.get_window_extent() for text in ax.texts]
        names = [text.get_window_extent() for text in (*ax.get_yticklabels(), ax.yaxis.label)]
        below = [text.get_window_extent() for text in (*ax.get_xticklabels(), ax.xaxis.label)]
        every = [*cells, *names, *below, ax.title.get_window_extent()]
        assert len(every) == num * num + 2 * num + 3
        for a, b in itertools.combinations(every, 2):
            assert not a.overlaps(b)
        assert all(page.x0 <= b.x0 and b.x1 <= page.x1 for b in every)
        assert all(page.y0 <= b.y0 and b.y1 <= page.y1 for b in every)


def test_plots_show_what_is_asked_for(ours):
    assert ours.plot_confusion().get_title() == "{s,v,t}"
    assert ours.plot_confusion("t").get_title() == "{t}"
    with pytest.raises(UserError, match=r"^condition='x': wanted one of t, s, v, "):
        ours.plot_confusion("x")
    labels = [text.get_text() for text in ours.plot_curves().get_legend().get_texts()]
    assert labels == ["fold 1", "fold 2", "fold 3"]
    assert ours.plot_curves("loss").get_title() == "training loss"
    with pytest.raises(UserError, match=r"^term='x': not in .*history.csv, which has val_uar, "):
        ours.plot_curves("x")


def test_a_comparison_tests_each_against_the_one_that_is_asked(ours, folders):
    theirs = cmarr_jax.load(folders["theirs"])
    found = ours.compare(theirs)
    assert (
        found.values.columns == ["MMIN", "CM-ARR"] and np.isnan(found.values.p_value[:, -1]).all()
    )
    assert repr(found) == found.table() and "p of avg" in found.table()
    assert "\n| MMIN | " in found._repr_markdown_()
    assert r"\begin{table" in found.table("latex")
    less = cmarr_jax.load(folders["less"])
    assert ours.compare(less, theirs).values.columns[0] == "CM-ARR (w/o UDCL)"
    theirs.name = "the old one"
    assert ours.compare(theirs).values.columns == ["the old one", "CM-ARR"]


def test_a_comparison_is_one_figure_with_a_colour_a_system(ours, folders):
    found = ours.compare(cmarr_jax.load(folders["theirs"]), cmarr_jax.load(folders["less"]))
    figure, wanted = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axes in (found.plot(), found.plot(wanted)):
        war, uar = axes
        assert war.get_ylim() == uar.get_ylim()
        assert [ax.get_ylabel() for ax in axes] == ["WAR, %", "UAR, %"]
        names = [label.get_text() for label in uar.get_xticklabels()]
        assert names == ["{t}", "{s}", "{v}", "{v,t}", "{s,v}", "{s,t}", "avg", "{s,v,t}"]
        for k, ax in enumerate(axes):
            dots = {bars.get_label(): bars.lines[0] for bars in ax.containers}
            assert [*dots] == ["MMIN", "CM-ARR (w/o UDCL)", "CM-ARR"]
            assert len({line.get_color() for line in dots.values()}) == 3
            for j, line in enumerate(dots.values()):
                np.testing.assert_allclose(line.get_ydata(), found.values.mean[:, j, k])
        (legend, *_) = war.figure.legends or [war.get_legend()]
        shown = [text.get_text() for text in legend.get_texts()]
        assert shown[:3] == [*dots]
        assert shown[3:] == ["majority class, WAR", "chance, UAR", "95 % interval"]
        (majority,) = (c for c in war.collections if c.get_label() == "majority class, WAR")
        np.testing.assert_allclose([s[0, 1] for s in majority.get_segments()], [25] * 8)
    assert found.plot()[0].figure is not figure
    for ax in wanted:
        ax.set_title("A title")
        assert_the_legend_covers_nothing(ax)
    with pytest.raises(UserError, match=r"^axes: wanted two, for WAR and for UAR, got 1$"):
        found.plot(wanted[0])


def test_of_one_fold_the_comparison_is_a_bootstrap(tmp_path):
    one, other = (
        cmarr_jax.load(results_folder.write(tmp_path / s, folds=1, system=s))
        for s in ("cmarr", "mmin")
    )
    found = one.compare(other)
    assert not np.isnan(found.values.p_value[:, 0]).any()
    assert "paired bootstrap" in found.table() and "p of avg" in found.table()
    shown = [text.get_text() for text in found.plot()[0].figure.legends[0].get_texts()]
    assert shown[-1] == "standard deviation"


def test_two_of_one_name_are_told_apart_by_their_folders(ours, folders):
    again = cmarr_jax.load(folders["again"])
    columns = [f"CM-ARR {folders['again']}", f"CM-ARR {folders['ours']}"]
    assert ours.compare(again).values.columns == columns
    with pytest.raises(UserError, match="compared with itself"):
        ours.compare(cmarr_jax.load(folders["ours"]))


def test_what_cannot_be_compared_is_one_line(ours, tmp_path):
    with pytest.raises(UserError, match="wanted the results of another"):
        ours.compare()
    with pytest.raises(UserError, match="its protocol is '2 folds by session', of "):
        ours.compare(cmarr_jax.load(results_folder.write(tmp_path / "a", folds=2)))
    few = results_folder.write(tmp_path / "b", modalities=("text", "speech"))
    with pytest.raises(UserError, match="has other modalities or conditions than"):
        ours.compare(cmarr_jax.load(few))
    with pytest.raises(UserError, match=r"status.json: missing"):
        cmarr_jax.load(tmp_path / "nothing")
    changed = {}
    for name in ("before", "after"):  # the pack at its place was made anew
        changed[name] = cmarr_jax.load(results_folder.write(tmp_path / name))
        file = tmp_path / name / "status.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"corpus": name}))
    with pytest.raises(UserError, match="corpus"):
        changed["before"].compare(changed["after"])


def test_a_config_goes_by_a_system_an_argument_a_file_or_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no checkout is here
    assert config_files.get("mmin") == common.with_variants(common.get_config(), "mmin")
    assert config_files.get("pooled,no_udcl").variant == "pooled,no_udcl"
    assert config_files.get("configs/demo.py:mmin") == demo.get_config("mmin")
    (tmp_path / "own.py").write_text(
        "from configs import common\n\ndef get_config():\n    c = common.get_config()\n"
        "    c.train.epochs = 7\n    return c\n"
    )
    assert config_files.get("own.py").train.epochs == 7
    assert config_files.get(str(tmp_path / "own.py")).train.epochs == 7


def test_a_configs_folder_of_the_users_is_left_alone(tmp_path, monkeypatch):
    mine = SimpleNamespace(__path__=[str(tmp_path)])
    kept = {k: v for k, v in sys.modules.items() if k.partition(".")[0] == "configs"}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "configs", mine)
    path = list(sys.path)
    assert config_files.get("cmarr").system == "cmarr"
    assert sys.modules["configs"] is mine and "configs.common" not in sys.modules
    assert sys.path == path


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("def get_config():\n    return 1 / 0\n", "own.py:2: ZeroDivisionError: division by zero"),
        ("def get_config()\n", "own.py:1: SyntaxError: expected ':'"),
        ("def get_config():\n    return {}\n", "get_config returns a dict; wanted a ConfigDict"),
    ],
)
def test_a_mistake_in_ones_own_config_is_one_line(tmp_path, text, wanted):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError) as error:
        config_files.get(str(tmp_path / "own.py"))
    assert wanted in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "what, fields, wanted",
    [
        ("mmin", {"num_seed": 2}, "num_seed=2: no such field; did you mean num_seeds?"),
        ("mmin", {"train": {"lr": 1.0}}, "train.lr=1.0: no such field"),
        ("mmin", {"num_seeds": "two"}, "num_seeds='two': wanted a value of type int"),
        ("mmin", {"train.epochs": 0}, "--config.train.epochs=0: wanted at least 1"),
        ("no_such", {}, "variant 'no_such': wanted some of"),
        ("none.py:mmin", {}, "none.py: no such file; the configs are in configs/"),
        ("table2", {}, "'table2': stands for several systems; train them one by one"),
        ("cmarr", {"system": "mmin"}, "its settings are another system's"),
        ("cmarr", {}, "PACK"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, what, fields, wanted):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        cmarr_jax.train(what, "PACK", "DIR", **({"data.loader": "numpy"} | fields))
    assert wanted in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_fields_are_set_by_section_or_by_their_whole_names():
    config = common.get_config()
    fields = {"train": {"epochs": 5}, "model.rec.weight": 2, "model": {"fusion": {"pairs": ["a"]}}}
    config_files.set_fields(config, fields)
    assert (config.train.epochs, config.model.rec.weight) == (5, 2.0)
    assert config.model.fusion.pairs == ("a",)


class Stream(io.StringIO):
    """Standard error as a notebook has it: no terminal, no file."""

    def isatty(self):
        return False

    def fileno(self):
        raise io.UnsupportedOperation("fileno")


@pytest.mark.slow
def test_what_is_trained_from_python_is_what_the_command_trains(tiny_pack, tmp_path, monkeypatch):
    said = Stream()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.chdir(tmp_path)
    config = tiny.config("full_modality", **{"train.epochs": 2})
    before = config.to_json()
    pack = cmarr_jax.pack.read(tiny_pack.path)
    first = cmarr_jax.train(config, pack, tmp_path / "first", fold=1)
    assert config.to_json() == before
    assert first.table().startswith("Baseline on tiny; fold 1 of 3 folds by session")
    for line in ("reading ", "epoch 1/2: loss ", "epoch 2/2: loss ", "done in "):
        assert line in said.getvalue()
    again = cmarr_jax.train(config, pack.path, str(tmp_path / "first"), fold=1)
    assert "trained already" in said.getvalue() and again.table() == first.table()
    with pytest.raises(UserError, match="belongs to a sweep with fold=1, now 2"):
        cmarr_jax.train(config, pack.path, "first", fold=2)
    predictor = cmarr_jax.Predictor("first")
    second = cmarr_jax.train(config, pack, "second")  # of three runs: JAX's devices may change
    assert len(list(predictor.of_pack(pack.path))) == len(pack.labels)
    assert [row for row in second._rows if row["fold"] == "1"] == [
        row | {"protocol": "3 folds by session"} for row in first._rows
    ]

    flags = {"data.pack": pack.path} | {k: v for k, v in SMALL.items() if k != "data.pack"}
    third = cmarr_jax.train("configs/iemocap.py:full_modality", pack, "third", **SMALL)
    command = [sys.executable, os.path.join(ROOT, "train.py"), "--workdir=fourth"]
    command += [f"--config={ROOT}/configs/iemocap.py:full_modality"]
    command += [f"--config.{name}={value}" for name, value in flags.items()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_results("fourth") == third._rows and done.stdout.strip() == third.table().strip()


SIZES = {"epochs": 1, "batch_size": 8}
SMALL = {"data.loader": "numpy", "data.length": 4, "train.epochs": 1, "train.batch_size": 8}
SMALL |= {"model.width": 16, "model.fusion.num_heads": 2}


@pytest.mark.slow
def test_a_notebook_goes_on_to_show_figures(folders, tmp_path):
    """Its backend makes matplotlib interactive when the first figure is made."""
    (tmp_path / "as_in_a_notebook.py").write_text(
        "import matplotlib\nfrom matplotlib.backends.backend_agg import FigureCanvas\n"
        "matplotlib.interactive(True)\n"
    )
    code = f"""
import cmarr_jax, matplotlib, os, sys
sys.path.append(os.getcwd())
matplotlib.use("module://as_in_a_notebook")
cmarr_jax.load({folders["ours"]!r}).plot_curves()
print(matplotlib.is_interactive(), matplotlib.get_backend())
"""
    done = python(code, tmp_path)
    assert done.stdout == "True module://as_in_a_notebook\n", done.stderr


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tiny_pack, tmp_path, monkeypatch, capsys):
    """Made small."""
    small = {"data.loader": "numpy", "data.length": 4, "fold": 1}
    small |= {f"{part}.{k}": v for part in ("train", "pretrain") for k, v in SIZES.items()}
    monkeypatch.setattr(cmarr_jax, "train", functools.partial(run.train, **small))
    monkeypatch.chdir(tmp_path)
    os.symlink(tiny_pack.path, "PACK")
    with open(os.path.join(ROOT, "docs", "python.md"), encoding="utf-8") as f:
        (block,) = re.findall(r"```python\n(.*?)```", f.read(), re.DOTALL)
    exec(block, {})
    assert "MMIN" in capsys.readouterr().out and os.path.getsize("comparison.pdf") > 5000


@pytest.mark.slow
def test_the_notebook_goes_from_a_pack_to_a_figure_in_fifteen_cells(tmp_path):
    with open(os.path.join(ROOT, "docs", "first_steps.ipynb"), encoding="utf-8") as f:
        cells = json.load(f)["cells"]
    assert len(cells) == 15
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "cells.py").write_text("\n".join(code))
    done = python("exec(compile(open('cells.py').read(), 'cells', 'exec'))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.path.getsize(tmp_path / "comparison.pdf") > 5000
