"""The page as a file, by a parser; and as it is seen, in a headless Chromium where there is one."""

import itertools
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

import configs.common
from cmarr_jax.data import audit, pipeline, protocol
from cmarr_jax.errors import UserError
from cmarr_jax.results import figure_files, report_page
from cmarr_jax.results.folder import estimates, is_cut, load
from cmarr_jax.results.report_page import write as write_page
from cmarr_jax.results.rows import join
from cmarr_jax.results.sections import SECTIONS
from cmarr_jax.results.summary import WORSE_THAN_ZEROS
from cmarr_jax.runtime.files import write_json
from tests.results import browser, results_folder
from tests.results.results_folder import NASTY

VOID = {"meta", "link", "br", "img", "path", "use"}


class Page(HTMLParser):
    """What a reader of the file finds in it."""

    def __init__(self, folder):
        super().__init__()
        self.tags, self.open, self.text, self.within = [], [], "", []
        with open(os.path.join(folder, "report.html"), encoding="utf-8") as f:
            self.source = f.read()
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text += data
        self.within.append((self.open[-1] if self.open else "", data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a corpus whose every name tries to break out."""
    made = results_folder.write(tmp_path_factory.mktemp("page") / "a", nasty=True, curves=(0.5,))
    write_page(made)
    return made


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    made = results_folder.write_table(
        tmp_path_factory.mktemp("page") / "t", seeds=1, num=24, modalities=("text", "speech")
    )
    shutil.rmtree(os.path.join(made, "mmin"))
    write_page(made)
    return made


@pytest.fixture
def small(tmp_path):
    """A folder whose page is quick to draw."""
    made = results_folder.write(
        tmp_path / "small", folds=1, seeds=1, num=24, modalities=("text", "speech")
    )
    for name in ("history.csv", "representations.npz"):
        os.remove(os.path.join(made, name))
    return made


@pytest.fixture(scope="module")
def page(folder):
    return Page(folder)


def check_form(page):
    """What holds for every page."""
    tags = [tag for tag, _ in page.tags]
    assert not page.open and "script" not in tags and "img" not in tags
    assert not {"href", "src", "srcset", "data", "action", "poster"} & {
        name
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if not (name == "href" and (value.startswith("#") or value == "data:,"))
    }
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert not any(n.startswith("on") for _, attributes in page.tags for n in attributes)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for tag, a in page.tags if tag == "a"]
    assert len(links) > 3 and set(links) <= set(ids)
    drawings = [a for tag, a in page.tags if tag == "svg"]
    assert drawings and all(a["role"] == "img" and a["aria-label"] for a in drawings)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert all(a.get("scope") in ("col", "row") for tag, a in page.tags if tag == "th")
    assert tags.count("caption") == tags.count("table") > 0
    assert ("html", {"lang": "en"}) in page.tags
    assert len(page.source) < 3_000_000


def test_a_sweeps_page_is_whole_and_needs_nothing_else(page):
    check_form(page)
    policy = next(a for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


def test_names_that_try_to_break_out_are_inert(page):
    assert page.source.count("<script") == 0
    shown = [text for tag, text in page.within if NASTY in text]
    assert len(shown) > 20  # title, corpus, class, ids, audit


def test_every_part_is_there_with_its_numbers(page, folder):
    headings = [text for tag, text in page.within if tag == "h2"]
    assert headings == [
        "What was run", "Caveats", "Results", "Confusion matrices", "Learning curves",
        "Calibration", "Reconstruction", "Recovered and true", "Leakage audit",
        "Most confident mistakes",
    ]  # fmt: skip
    made = estimates(load(folder))
    for name in ("t", "avg", "svt", "missing=0.5"):
        e = made[name]["uar"]
        cell = f"{100 * e.mean:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
        assert ("td", cell) in page.within
    assert "Nadeau and Bengio" in page.text and "not in this folder" not in page.text.lower()
    assert "No leak found" in page.text and "1 x cpu" in page.text
    assert re.search(r"[12] of 2", page.text)  # seeds agree
    spoken = [attributes.get("aria-label") for _, attributes in page.tags]
    assert "curves, validation UAR, %" in spoken and "confusion, {v,t}" in spoken
    charts = sum(tag == "svg" for tag, _ in page.tags)
    # bars, missing rates, confusion, curves, calibration, reconstruction, t-SNE
    assert charts == 1 + 1 + 7 + 9 + 7 + 1 + 1


def test_a_reader_is_told_what_the_numbers_leave_open(page):
    text = " ".join(page.text.split())
    assert "but an utterance always keeps one" in text  # in the table's caption and the figure's
    assert text.count("but an utterance always keeps one") == 2
    assert "differ by at most a hundredth of a standard deviation" in text
    majority = re.findall(r"always naming the (\w+) part's (?:largest|most frequent) class", text)
    assert len(majority) == 3 and set(majority) == {"training"}
    for short in ("cls", "val_uar", "gradient_norm"):
        assert short not in {words for tag, words in page.within if tag == "text"}
    assert "classification" in text and "chosen epoch" in text
    assert ("th", "missing=0.5") in page.within


def test_errors_worse_than_zeros_and_cut_intervals_are_marked(small):
    for name in ("results.csv", "reconstruction.csv"):
        file = os.path.join(small, name)
        with open(file) as f:
            head, *lines = f.read().splitlines()
        cells, column = [line.split(",") for line in lines], head.split(",").index("rec_error")
        for row in cells:
            row[column] = "1.500000" if row[column] else ""
        with open(file, "w") as f:
            f.write("\n".join([head, *(",".join(row) for row in cells)]) + "\n")
    r = load(small)
    for title, mark in (("Results", "1.500 !"), ("Reconstruction", "")):
        section = SECTIONS[title](r, 2, "")
        assert mark in section and WORSE_THAN_ZEROS in section
    # All right in every draw of the bootstrap.
    sure = np.eye(4)[r.predictions.labels]
    made = estimates(r._replace(predictions=r.predictions._replace(posteriors=sure)))
    assert is_cut(made["t"]["war"]) and not is_cut(estimates(r)["t"]["war"])
    shown = r._replace(predictions=r.predictions._replace(posteriors=sure))
    assert "cut at 0 and 100" in figure_files.caption(shown, "conditions")
    assert "cut at 0 and 100" not in figure_files.caption(r, "conditions")


@pytest.fixture
def spoken(small, tmp_path):
    """`small` with the pack beside it that its config names."""
    pack = tmp_path / "pack"
    pack.mkdir()
    lines = [f"u{i:03d},1,a,ang,said <b>{i}</b> so" for i in range(24)]
    (pack / "utterances.csv").write_text("\n".join(["id,session,speaker,label,text", *lines]))
    write_json(os.path.join(small, "config.json"), {"data": {"pack": str(pack)}})
    return small, pack


def test_mistakes_show_what_was_said_where_the_pack_is(spoken):
    folder, pack = spoken
    write_page(folder)
    page = Page(folder)
    check_form(page)
    shown = [i for i in range(24) if ("td", f"said <b>{i}</b> so") in page.within]
    assert shown and f"read from the pack {pack}" in page.text and "licence" in page.text
    for i in shown:
        assert ("th", f"u{i:03d}") in page.within


@pytest.mark.parametrize(
    "content, why",
    [
        ("id,session,speaker,label\nu000,1,a,ang", "has no texts"),
        ("id,session,speaker,label,text\nx,1,a,ang,hm", "now holds other utterances"),
        ("id\n", "utterances.csv"),
        (None, "there is no pack at"),
        ("", ""),
    ],
)
def test_without_texts_the_page_says_why(spoken, content, why):
    folder, pack = spoken
    file = pack / "utterances.csv"
    if content != "":
        file.unlink() if content is None else file.write_text(content)
    r = report_page._load(folder, transcripts=content != "")
    section = SECTIONS["Confident mistakes"](r, 2, "")
    assert (why or "left out, as asked for") in section and "said &lt;b" not in section
    assert "What was said is" in section


def test_what_the_folder_lacks_is_named_with_the_remedy(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    for name in ("history.csv", "reconstruction.csv", "representations.npz", "predictions.csv"):
        os.remove(copy / name)
    os.remove(copy / "audit.json")
    os.remove(copy / "config.json")
    write_page(str(copy))
    bare = Page(copy)
    check_form(bare)
    for name in (
        "history.csv", "reconstruction.csv", "representations.npz", "predictions.csv",
        "audit.json", "config.json",
    ):  # fmt: skip
        assert f"Not in this folder: {name} (train.py writes it" in bare.text


def test_a_copy_of_the_folder_gives_the_same_page(small, tmp_path):
    copy = shutil.copytree(small, tmp_path / "elsewhere")
    write_page(small)
    write_page(str(copy))
    assert Page(copy).source == Page(small).source


def test_caveats_follow_from_what_was_run(small):
    config = {"fold": 3, "protocol": {"select_on_test": True}}
    write_json(os.path.join(small, "config.json"), config)
    found = load(small).audit | {"failures": ["fold 1: one recording on both sides"]}
    write_json(os.path.join(small, "audit.json"), found)
    write_page(small)
    page = Page(small)
    for caveat in ("SELECTED ON TEST", "One seed", "One test part", "Only fold 3", "LEAKS FOUND"):
        assert caveat in page.text
    assert "bootstrap" in page.text and "the test part was scored once" not in page.text


def test_without_validation_the_last_epoch_is_named(tmp_path):
    made = results_folder.write(tmp_path / "a", validated=False)
    write_page(made)
    page = Page(made)
    assert "No epoch was chosen: the last one counts" in page.text
    assert "the test part was scored once" not in page.text
    assert re.findall(r"(.*)validation UAR, %", page.text) == ["teacher: "]
    rows = re.findall(r"<th[^>]*>fold 1, seed 0</th>(.*?)</tr>", page.source, re.S)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", rows[0])
    assert cells[1:3] == ["3", ""]


def test_the_audit_is_shown_as_it_is_written(small, tiny_pack):
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    folds = protocol.make_folds(corpus.columns, corpus.labels)
    found = audit.audit(corpus, folds, scheme="session") | {"warnings": ["text: odd"]}
    write_json(os.path.join(small, "audit.json"), found)
    write_page(small)
    cells = [text for tag, text in Page(small).within if tag in ("th", "td", "p", "li")]
    at = cells.index("No leak found between training and test parts.")
    assert cells[at + 1 : at + 3] == ["Worth knowing:", "text: odd"]
    for fold, about in zip(folds, found["folds"], strict=True):
        name = f"{fold.number}: {fold.held_out}"
        row = cells.index(name, at) + 1
        rows = (fold.train, fold.val, fold.test)
        assert cells[row : row + 3] == [str(len(part)) for part in rows]
        speakers = [len(set(corpus.columns["speaker"][part])) for part in rows]
        assert cells[row + 3 : row + 6] == [str(n) for n in speakers]
        row = cells.index(name, row) + 1
        pairs = [str(about["near"][m]["pairs"]) for m in corpus.modalities]
        assert cells[row : row + len(pairs)] == pairs
        counts = np.bincount(corpus.labels[fold.test], minlength=len(corpus.class_names))
        row = cells.index(f"{name}, test", row) + 1
        assert cells[row : row + len(counts)] == [str(n) for n in counts]
    write_json(os.path.join(small, "audit.json"), {"folds": [1]})
    write_page(small)
    assert "audit.json is not as train.py writes it" in Page(small).text


def test_a_tables_page_compares_first_and_then_shows_each_member(table):
    page = Page(table)
    check_form(page)
    headings = [text for tag, text in page.within if tag == "h2"]
    assert headings == ["What was run", "Caveats", "Comparison", "MMIN", "CM-ARR"]
    assert sum(tag == "h3" for tag, _ in page.within) == 10
    assert "p of avg" in page.text and "corrected paired t-test" in page.text
    assert "Not in this folder: mmin/" in page.text


def test_a_tables_page_of_one_fold_names_the_bootstrap_or_why_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "SECTIONS", {})  # the comparison alone
    made = results_folder.write_table(
        tmp_path / "t", folds=1, seeds=1, num=24, modalities=("text", "speech")
    )
    write_page(made)
    text = Page(made).text
    assert "There is one test part;" in text and "p of avg" in text
    assert "against CM-ARR, by a paired bootstrap" in text and "the 6 groups" in text
    shutil.rmtree(os.path.join(made, "mmin"))
    write_page(made)
    text = Page(made).text
    assert "Not tested: " in text and "predictions.csv: missing" in text and "p of avg" not in text


@pytest.mark.parametrize("name", ["alpha", "train.learning_rate"])
def test_a_page_of_one_systems_settings_draws_loss_weights_and_keeps_its_members_short(
    name, tmp_path
):
    members = {f"{name}={a}": f"pooled,{name}={a}" for a in (0.1, 1.0)}
    for member, variant in members.items():
        results_folder.write(
            tmp_path / member, variant=variant, num=24, modalities=("text", "speech")
        )
    content = {"members": [[m, m] for m in members]}
    write_json(str(tmp_path / "config.json"), content)
    join(str(tmp_path), [str(tmp_path / m) for m in members], missing=0)
    write_page(str(tmp_path))
    page = Page(tmp_path)
    check_form(page)
    assert "p of avg" not in page.text and f"{name}=0.1" in page.text
    for text in ("α (alignment)", "against each loss weight"):
        assert (text in page.text) == (name == "alpha")
    assert sum(tag == "h3" for tag, _ in page.within) == 2 * 4


def test_no_page_of_what_is_not_finished_or_cannot_be_written(small):
    os.mkdir(os.path.join(small, "report.html"))
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write_page(small)
    write_json(os.path.join(small, "status.json"), {"complete": False, "epochs": 9})
    with pytest.raises(UserError, match="not complete"):
        write_page(small)


# Words of one drawing that lie on each other: boxes as they are turned, less a fifth at each
# side, that no axis parts.
OVERLAPS = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const words = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim());
  const quads = words.map(t => {
    const b = t.getBBox(), m = t.getScreenCTM(), x = b.width / 20, y = b.height / 5;
    return [[x, y], [b.width - x, y], [b.width - x, b.height - y], [x, b.height - y]]
      .map(([u, v]) => new DOMPoint(b.x + u, b.y + v).matrixTransform(m));
  });
  const parted = (p, q) => [[p[0], p[1]], [p[1], p[2]], [q[0], q[1]], [q[1], q[2]]].some(([a, b]) => {
    const along = c => c.x * (b.x - a.x) + c.y * (b.y - a.y);
    const u = p.map(along), v = q.map(along);
    return Math.max(...u) < Math.min(...v) || Math.max(...v) < Math.min(...u);
  });
  const found = [];
  for (let i = 0; i < words.length; i++) for (let j = i + 1; j < words.length; j++)
    if (!parted(quads[i], quads[j])) found.push(words[i].textContent + ' | ' + words[j].textContent);
  return found;
})
"""
# Parts of the page that lie on each other, or stick out of it sideways without a scroll bar.
OUTSIDE = """
(() => {
  const found = [], width = document.documentElement.clientWidth;
  for (const e of document.querySelectorAll('h1,h2,p,li,figure,svg,figcaption,dl,.scroll')) {
    const box = e.getBoundingClientRect();
    if (getComputedStyle(e.parentElement).overflowX == 'auto') continue;
    if (box.width && (box.right > width + 1 || box.left < -1)) found.push(e.tagName + box.right);
  }
  for (const e of document.querySelectorAll('section > *, figure svg')) {
    const next = e.nextElementSibling;
    if (!next) continue;
    const a = e.getBoundingClientRect(), b = next.getBoundingClientRect();
    if (a.height && b.height && b.top < a.bottom - 1 && b.left < a.right - 1)
      found.push('overlaps: ' + next.tagName);
  }
  if (document.documentElement.scrollWidth > width) found.push('the page scrolls sideways');
  return found;
})()
"""
# Contrast of every word with what is behind it, as WCAG computes it.
CONTRAST = """
(() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const lum = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((s, v, k) => s + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length == 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const poor = new Set();
  for (const e of document.querySelectorAll('h1,h2,p,li,a,td,th,dt,dd,caption,figcaption,summary,svg text')) {
    const style = getComputedStyle(e);
    const ink = lum(parse(e.closest('svg') ? style.fill : style.color)), paper = lum(behind(e));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (!(ratio >= 4.5)) poor.add(e.tagName + ' ' + ratio.toFixed(2));
  }
  return [...poor];
})()
"""


@pytest.fixture(scope="module")
def chromium():
    if browser.find() is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)} is installed")
    with browser.Browser() as tab:
        yield tab


def look(tab, folder, width, dark=False):
    tab.open(f"file://{folder}/report.html", width, dark=dark)
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    wrong = tab.complaints() + tab.evaluate(OVERLAPS) + tab.evaluate(OUTSIDE)
    return wrong + tab.evaluate(CONTRAST)


@pytest.mark.parametrize("width, dark", [(1440, False), (390, True), (320, False)])
def test_in_a_browser_nothing_overlaps_fails_or_is_faint(chromium, folder, width, dark):
    assert look(chromium, folder, width, dark) == []
    paper = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") != dark


def test_in_a_browser_a_table_is_sound_too(chromium, table):
    assert look(chromium, table, 390) == []


def test_on_paper_no_drawing_is_cut_and_what_was_folded_is_open(chromium, folder, tmp_path):
    chromium.open(f"file://{folder}/report.html", 794, dark=True)  # 210 mm
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    assert chromium.evaluate(
        "[...document.querySelectorAll('svg')].every(s => "
        "getComputedStyle(s).breakInside == 'avoid' || "
        "getComputedStyle(s.closest('figure')).breakInside == 'avoid')"
    )
    assert chromium.evaluate("document.querySelector('details table').offsetHeight > 0")
    chromium.print_to_pdf(str(tmp_path / "page.pdf"))
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_on_paper_a_table_is_its_comparison_and_what_was_opened(chromium, table):
    chromium.open(f"file://{table}/report.html", 794)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    height = "document.querySelector('#m1-all').offsetHeight"
    assert chromium.evaluate(height) == 0
    chromium.evaluate("document.querySelector('#m1-all > details').open = true")
    assert chromium.evaluate(height) > 500


@pytest.mark.slow
def test_on_paper_a_sweep_takes_eight_pages_and_no_figure_is_cut(chromium, tmp_path):
    made = results_folder.write(tmp_path / "a", folds=5, seeds=3, num=240, curves=(0.1, 0.5))
    pack = tmp_path / "pack"
    pack.mkdir()
    said = " ".join(["well"] * 30)
    lines = [f"u{i:03d},1,a,ang,{said}" for i in range(240)]
    (pack / "utterances.csv").write_text("\n".join(["id,session,speaker,label,text", *lines]))
    config = configs.common.get_config().to_dict()
    config["data"]["pack"] = str(pack)
    write_json(os.path.join(made, "config.json"), config)
    write_page(made)
    chromium.open(f"file://{made}/report.html", 794)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    height = chromium.evaluate(
        "Math.max(...[...document.querySelectorAll('figure')].map(f => f.offsetHeight))"
    )
    assert height < 970  # CSS pixels of a page less its margins: a figure that fits is not cut
    assert chromium.evaluate(
        "[...document.querySelectorAll('figure')]"
        ".every(f => getComputedStyle(f).breakInside == 'avoid')"
    )
    chromium.print_to_pdf(str(tmp_path / "page.pdf"))
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())
    assert 3 < len(pages) <= 8


def test_a_wide_screen_is_used_and_tables_scroll_on_a_phone(chromium, folder):
    chromium.open(f"file://{folder}/report.html", 1920)
    right = "Math.max(...[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().right))"
    assert chromium.evaluate(right) > 1600
    columns = (
        "new Set([...document.querySelectorAll('.four svg')]"
        ".map(s => Math.round(s.getBoundingClientRect().left))).size"
    )
    assert chromium.evaluate(columns) == 4
    chromium.open(f"file://{folder}/report.html", 390)
    assert chromium.evaluate(columns) == 1
    assert chromium.evaluate(
        "[...document.querySelectorAll('.scroll')].some(s => s.scrollWidth > s.clientWidth)"
    )


def test_the_checks_in_the_browser_see_what_is_wrong(chromium, tmp_path):
    """Else they might pass on anything."""
    (tmp_path / "report.html").write_text(
        "<p style='color:#999;background:#fff'>faint</p><div style='width:3000px'>wide</div>"
        "<svg viewBox='0 0 100 20'><text x='0' y='10'>one</text><text x='5' y='10'>two</text></svg>"
        "<script>console.error('a complaint')</script><link rel=stylesheet href='gone.css'>"
    )
    wrong = " ".join(look(chromium, tmp_path, 390))
    for word in ("one | two", "P 2.8", "sideways", "a complaint", "gone.css", "not loaded"):
        assert word in wrong
