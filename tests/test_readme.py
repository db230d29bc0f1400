"""What the README and the page on systems show is run as it stands there."""

import os
import re
import types

import numpy as np

from cmarr_jax.data import pack, pipeline
from cmarr_jax.systems import SYSTEMS
from tests import tiny

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


def block(name, word):
    """The one block of Python on a page that has `word` in it."""
    blocks = re.findall(r"```python\n(.*?)```", read(name), flags=re.DOTALL)
    (source,) = (source for source in blocks if word in source)
    return source


def test_the_pages_own_system_trains_beside_the_others(tiny_pack, monkeypatch):
    source = block("docs/systems.md", "def make(")
    module = types.ModuleType("late_fusion")
    exec(compile(source, "late_fusion.py", "exec"), module.__dict__)
    monkeypatch.setitem(SYSTEMS, "late_fusion", module.make)
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=2)
    fields = {"system": "late_fusion", "train.epochs": 8, "train.learning_rate": 0.03}
    _, _, scored = tiny.train(corpus, tiny.Memory(), **fields)
    full = np.mean([s.posteriors[-1].argmax(-1) == corpus.labels[s.rows] for s in scored])
    assert full > 0.6  # chance is a third


def test_the_readmes_pack_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "ids": ["a", "b"],
        "sessions": ["1", "2"],
        "speakers": ["F", "M"],
        "labels": ["sad", "hap"],
        "text_arrays": [np.ones((3, 4), np.float32), np.ones((1, 4), np.float32)],
        "speech_arrays": [np.ones((2, 5), np.float32), np.zeros((0, 5), np.float32)],
    }
    exec(block("README.md", "pack.write"), given)
    made = pack.read("PACK")
    assert made.sequence("text", 0).shape == (3, 4) and made.sequence("speech", 1).shape == (0, 5)


def test_the_readmes_three_lines_predict(tiny_pack, tmp_path, monkeypatch, capsys):
    source = block("README.md", "Predictor")
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    config = tiny.config("full_modality")
    tiny.export_model(str(tmp_path / "DIR" / "model"), corpus, config, folds=2)
    (tmp_path / "PACK").symlink_to(tiny_pack.path)
    monkeypatch.chdir(tmp_path)
    exec(source, {})
    assert re.match(r"[abc] \{'a': 0\.", capsys.readouterr().out)


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#]+)\)", read("README.md"))
    assert len(links) > 4
    for link in links:
        assert link.startswith("http") or os.path.exists(os.path.join(ROOT, link)), link


def test_the_readme_is_two_pages_and_names_each_room():
    assert len(read("README.md").splitlines()) <= 180
    rooms = next(os.walk(os.path.join(ROOT, "cmarr_jax")))[1]
    for room in (r for r in rooms if not r.startswith("_")):
        assert f"cmarr_jax/{room}/" in read("README.md"), room


def test_the_readmes_figures_are_those_of_the_page_on_results():
    rows = re.findall(r"^\| .*?(\| \d\d\.\d.*\d) \|$", read("README.md"), re.M)
    assert len(rows) >= 5
    for row in rows:
        assert row in read("docs/results.md"), row
