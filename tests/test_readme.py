"""What the README shows is run as it stands there."""

import os
import re
import types

import numpy as np

from cmarr_jax.data import pipeline
from cmarr_jax.systems import SYSTEMS
from tests import tiny

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_the_readmes_own_system_trains_beside_the_others(tiny_pack, monkeypatch):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        blocks = re.findall(r"```python\n(.*?)```", f.read(), flags=re.DOTALL)
    (source,) = (block for block in blocks if "def make(" in block)
    module = types.ModuleType("late_fusion")
    exec(compile(source, "late_fusion.py", "exec"), module.__dict__)
    monkeypatch.setitem(SYSTEMS, "late_fusion", module.make)
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=2)
    fields = {"system": "late_fusion", "train.epochs": 8, "train.learning_rate": 0.03}
    _, _, scored = tiny.train(corpus, tiny.Memory(), **fields)
    full = np.mean([s.posteriors[-1].argmax(-1) == corpus.labels[s.rows] for s in scored])
    assert full > 0.6  # chance is a third


def test_the_readmes_three_lines_predict(tiny_pack, tmp_path, monkeypatch, capsys):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        blocks = re.findall(r"```python\n(.*?)```", f.read(), flags=re.DOTALL)
    (source,) = (block for block in blocks if "Predictor" in block)
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    config = tiny.config("full_modality")
    tiny.export_model(str(tmp_path / "DIR" / "model"), corpus, config, folds=2)
    (tmp_path / "PACK").symlink_to(tiny_pack.path)
    monkeypatch.chdir(tmp_path)
    exec(source, {})
    assert re.match(r"[abc] \{'a': 0\.", capsys.readouterr().out)


def test_every_file_that_the_readme_links_to_exists():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        links = re.findall(r"\]\(([^)#]+)\)", f.read())
    assert len(links) > 4
    for link in links:
        assert link.startswith("http") or os.path.exists(os.path.join(ROOT, link)), link
