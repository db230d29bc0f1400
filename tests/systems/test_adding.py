"""The page on systems, followed to the letter: a file, and one place that names it."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from cmarr_jax.systems import SYSTEMS, cmarr
from configs import common, iemocap

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_a_system_without_a_preset_takes_the_settings_as_they_are(monkeypatch):
    monkeypatch.setitem(SYSTEMS, "late_fusion", cmarr.make)
    config = iemocap.get_config("late_fusion")
    assert (config.system, config.variant) == ("late_fusion", "default")
    assert config.model == common.get_config().model
    pooled = iemocap.get_config("pooled,late_fusion,train.learning_rate=0.03")
    assert (pooled.data.length, pooled.train.learning_rate) == (1, 0.03)


@pytest.fixture(scope="module")
def strangers_checkout(tmp_path_factory):
    """A copy in which the page's example was added as the page says."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("cmarr_jax", "configs", "tests"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(ROOT, folder), root / folder, ignore=skip)
    for file in ("train.py", "evaluate.py", "pyproject.toml"):
        shutil.copy(os.path.join(ROOT, file), root)
    with open(os.path.join(ROOT, "docs", "systems.md"), encoding="utf-8") as f:
        page = f.read()
    (example,) = re.findall(r"```python\n(.*?def make\(.*?)```", page, re.DOTALL)
    (root / "cmarr_jax" / "systems" / "late_fusion.py").write_text(example)
    place = root / "cmarr_jax" / "systems" / "__init__.py"
    text = place.read_text().replace("    if_mmin,\n", "    if_mmin,\n    late_fusion,\n")
    last = '    "nmer": nmer.make,\n'
    assert last in text
    place.write_text(text.replace(last, f'{last}    "late_fusion": late_fusion.make,\n'))
    return root, page


def run(root, *command):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_tests_that_every_system_passes_run_for_it_and_pass(strangers_checkout):
    root, page = strangers_checkout
    tests = re.findall(r"`(tests/[\w/]+\.py):(test_\w+)`", page)
    assert len(tests) == 8
    names = [f"{file}::{name}" for file, name in tests]
    code, said = run(
        root, "-m", "pytest", "-q", "-k", "late_fusion", "-p", "no:cacheprovider", *names
    )
    # One of the eight has three sets of modalities.
    assert code == 0 and "10 passed" in said, said


@pytest.mark.slow
def test_an_argument_names_it_and_a_table_shows_it_under_any_name(strangers_checkout, tiny_pack):
    root, _ = strangers_checkout
    flags = [f"--config.data.pack={tiny_pack.path}", "--config.data.loader=numpy", "--workdir=DIR"]
    flags += ["--config.train.epochs=1", "--config.train.batch_size=8"]
    names = ("late fusion (ours)", "β=1")
    members = (
        (names[0], "late_fusion"),
        (names[1], "late_fusion,train.learning_rate=0.01"),
    )
    flags.append(f"--config.members={members!r}")
    code, said = run(root, "train.py", "--config", "configs/iemocap.py:late_fusion", *flags)
    assert code == 0 and "late_fusion on tiny" in said, said
    code, said = run(root, "evaluate.py", "--workdir=DIR", "--table=own", "--format=markdown")
    assert code == 0 and all(name in said for name in names), said
