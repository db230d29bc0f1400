import os
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.results import (
    figure_files,
    figures,
    names,
    panels,
    sections,
    style,
    summary,
    system_figures,
)
from cmarr_jax.results.folder import load
from cmarr_jax.results.rows import read_results, read_summary
from cmarr_jax.results.tensorboard import to_tensorboard
from tests.results import results_folder
from tests.tiny import MODALITIES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return results_folder.write(
        tmp_path_factory.mktemp("files") / "a",
        nasty=True,
        modalities=MODALITIES[:2],
        curves=(0.3, 0.7),
    )


@pytest.fixture(scope="module")
def r(folder):
    return load(folder)


def test_every_figure_is_in_the_folder_and_its_caption_says_n_folds_and_seeds(r):
    assert figure_files.drawable(r) == list(figure_files.FIGURES)
    for name in figure_files.FIGURES:
        assert "n = 48 test utterances, 3 folds, 2 seeds" in figure_files.caption(r, name)
    bare = r._replace(history=[], predictions=None, reconstruction=[], representations=None)
    bare = bare._replace(curves=[])
    assert figure_files.drawable(bare) == ["conditions", "confusion"]
    with pytest.raises(UserError, match=r"history\.csv is not in this folder; train\.py"):
        figure_files.make(bare, "curves")


def test_files_fit_a_column_and_embed_their_fonts(r, tmp_path):
    files = [str(tmp_path / f"x.{kind}") for kind in ("pdf", "png")]
    figure_files.write(figure_files.make(r, "calibration"), files, "n = 48")
    pdf = (tmp_path / "x.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    (box,) = re.findall(rb"/MediaBox \[([^\]]+)\]", pdf)
    _, _, width, height = map(float, box.split())
    assert width == 3.5 * 72 and height < 9.5 * 72
    assert (tmp_path / "x.png").stat().st_size > 5_000
    for wrong, match in (("x.gif", "wanted a file"), ("x.png/y.png", "cannot be written")):
        drawn = figure_files.make(r, "conditions")
        with pytest.raises(UserError, match=match):
            figure_files.write(drawn, [str(tmp_path / wrong)], "")


def test_a_caption_stands_below_or_in_a_file_beside(r, tmp_path):
    heights = {}
    for below in (True, False):
        file = tmp_path / f"{below}.pdf"
        drawn = figure_files.make(r, "conditions")
        figure_files.write(drawn, [str(file)], "n = 48 " * 30, below)
        (box,) = re.findall(rb"/MediaBox \[([^\]]+)\]", file.read_bytes())
        heights[below] = float(box.split()[3])
    assert heights[True] > heights[False] + 10
    assert (tmp_path / "False.txt").read_text() == "n = 48 " * 30 + "\n"
    assert not (tmp_path / "True.txt").exists()


def sweeps(workdir, members, **fields):
    made = results_folder.write_table(workdir, members, **fields)
    last = load(os.path.join(made, members[-1]))
    return figure_files.Sweeps(read_results(made), list(members), read_summary(made), last)


def test_systems_share_a_range_and_their_lines_are_said(tmp_path):
    several = sweeps(tmp_path, ("mmin", "cmarr"), num=96)
    drawn, caption = figure_files.make_of(several, "systems")
    war, uar = drawn.axes
    assert war.get_ylim() == uar.get_ylim()
    shown = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert shown == ["MMIN", "CM-ARR", "majority class, WAR", "chance, UAR", "95 % interval"]
    (chance,) = (line for line in uar.lines if line.get_label() == "chance, UAR")
    assert {*chance.get_ydata()} == {25}
    assert "n = 96 test utterances, 3 folds, 2 seeds" in caption
    bare, _ = figure_files.make_of(several._replace(reference=None), "systems")
    shown = [text.get_text() for text in bare.legends[0].get_texts()]
    assert shown == ["MMIN", "CM-ARR", "95 % interval"]


def test_only_what_is_cut_is_called_cut(rng):
    def caption(spread):
        rows = [
            {
                "corpus": "c",
                "protocol": "p",
                "system": s,
                "variant": "default",
                "fold": f,
                "seed": "0",
            }
            | {"condition": c, "n": "8", "n_train": "16", "war": x, "uar": x}
            for s in ("mmin", "cmarr")
            for f, x in (("1", f"{0.5 - spread}"), ("2", f"{0.5 + spread}"), ("3", "0.5"))
            for c in ("t", "s", "st", "missing=0.5")
        ]
        made = figure_files.Sweeps(rows, ["mmin", "cmarr"], [])
        return [figure_files.make_of(made, name)[1] for name in ("systems", "robustness")]

    for text in caption(0.4):
        assert "(Nadeau and Bengio, 2003), cut at 0 and 100. c; p;" in text
    for text in caption(0.01):
        assert "(Nadeau and Bengio, 2003). c; p;" in text


def test_members_of_any_name_are_spelt_as_the_systems_are():
    spelt = {"baseline": "Baseline", "cm-arr": "CM-ARR", "full_modality": "Baseline"}
    spelt |= {"augmented": "Augmented", "mine": "mine", "late fusion": "late fusion"}
    assert {name: names.member(name) for name in spelt} == spelt
    alike = ["baseline", "full_modality", "augmented"]
    assert names.members(alike) == ["baseline", "full_modality", "Augmented"]


def test_an_svg_keeps_its_text_and_takes_the_pages_colours(r):
    drawn = panels.grid(lambda axes, c: panels.confusion(r, axes, c), ["t"], 1, (3, 3))
    text = figure_files.svg(drawn, "one", 'a "title" <b>')
    tree = xml.etree.ElementTree.fromstring(text)
    assert tree.attrib["role"] == "img" and tree.attrib["aria-label"] == 'a "title" <b>'
    words = [t.text for t in tree.iter("text")]
    assert "predicted" in words and any("<script" in w for w in words)
    inside = re.sub(r">[^<]*<", "><", text)
    assert "var(--heat)" in inside and style.INK not in inside and "http" not in inside
    ids = re.findall(r' id="([^"]+)"', inside)
    assert ids and all(i.startswith("one-") for i in ids) and len(ids) == len(set(ids))
    assert set(re.findall(r"#([\w-]+)", inside)) <= set(ids)


def test_numbers_that_are_shown_are_not_rounded_with_the_coordinates(r):
    drawn = figures.representations(r.representations)
    text = figure_files.svg(drawn, "five", "")
    overlap = figures.overlaps(r.representations)["text"]
    assert f"recovered ({overlap:.2f})" in text


def test_tensorboard_shows_each_figure_once(folder, r, monkeypatch):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    few = {name: figure_files.FIGURES[name] for name in ("conditions", "curves", "5")}
    monkeypatch.setattr(figure_files, "FIGURES", few)
    for _ in range(2):
        to_tensorboard(folder, r._replace(representations=None))
    metrics = os.path.join(folder, "metrics", "figures")
    (file,) = os.listdir(metrics)
    reader, events = PyRecordReader_New(os.path.join(metrics, file)), []
    for _ in range(3):
        reader.GetNext()
        events.append(Event.FromString(reader.record()))
    with pytest.raises(Exception, match=r"No more events"):
        reader.GetNext()
    assert events[0].file_version == "brain.Event:2"
    names = ["conditions", "curves"]
    assert [e.summary.value[0].tag for e in events[1:]] == names
    png = events[2].summary.value[0].image.encoded_image_string
    assert events[2].step == 3 and png.startswith(b"\x89PNG")
    assert np.frombuffer(png[16:24], ">u4").min() > 300


def test_the_curves_stand_in_as_many_columns_as_leave_the_fewer_places_empty(r, monkeypatch):
    for count, columns in ((5, 3), (6, 3), (7, 4), (8, 4), (9, 3), (12, 4)):
        names = [f"{k}" for k in range(count)]
        monkeypatch.setattr(figure_files.panels, "curve_names", lambda r, names=names: names)
        seen = {}
        monkeypatch.setattr(
            figure_files.panels, "grid", lambda draw, names, n, size, seen=seen: seen.update(n=n)
        )
        figure_files._curves(r)
        assert seen["n"] == columns


def test_rates_of_each_modalitys_own_are_a_row_and_no_line(tmp_path):
    """Frames and spans are lines; all are in the tables, with what a reader must know of them."""
    own = np.array([0.1, 0.5, 0.0])
    made = load(results_folder.write(tmp_path / "a", further={"rates": {"t0.1+s0.5": own}}))
    assert made.curves == ["rates=t0.1+s0.5"] and "robustness" not in figure_files.drawable(made)
    text = summary.summary_table(read_summary(str(tmp_path / "a")))
    rows = [line for line in text.splitlines() if "±" in line]
    assert rows[-1].startswith("rates=t0.1+s0.5 ")
    ends = {re.search(r"[\d.]+ ± [\d.]+", line).end() for line in rows}
    assert len(ends) == 1  # one beneath the other
    assert summary.RATES_DIFFER in text and summary.FRAMES_ARE_LOST not in text
    further = {"frame_rates": (0.3, 0.6), "span_rates": (0.9,), "noise_levels": (0.3,)}
    lost = load(results_folder.write(tmp_path / "b", further=further))
    assert list(system_figures.lines_of(lost)) == ["gaussian", "impulse", "frames", "spans"]
    caption = figure_files.caption(lost, "robustness")
    assert "the share of lost frames and the share lost in one span" in caption
    assert summary.FRAMES_ARE_LOST in caption and summary.ONE_IS_KEPT not in caption
    for r, drawn in ((made, 1), (lost, 2)):
        page = sections.SECTIONS["Results"](r, 2, "")
        assert page.count("<figure") == drawn and all(name in page for name in r.curves)
    for row in read_results(str(tmp_path / "b")):
        assert row["weighted_f1"] and len(row["recalls"].split()) == 4
