"""`pip install .` and the requirements files say the same; every module and command is in it."""

import importlib
import os
import re
import tomllib

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def lines(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        kept = (line.partition(" #")[0].strip() for line in f)
        return {line for line in kept if line and not line.startswith("#")}


@pytest.fixture(scope="module")
def project():
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as f:
        return tomllib.load(f)["project"]


def test_the_pins_are_those_of_the_requirements_files(project):
    extras = project["optional-dependencies"]
    core = {*project["dependencies"], *extras["train"], "transformers>=5,<6"}
    assert lines("requirements.txt") - core == {"pytest", "pytest-xdist", "hypothesis", "ruff"}
    assert core <= lines("requirements.txt")
    assert {*extras["extract"]} - {"transformers>=5,<6"} == lines("requirements-extract.txt")
    assert {*extras["docs"]} == lines("requirements-docs.txt")


def test_every_console_command_exists(project):
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_every_folder_with_modules_is_a_package():
    for place, _, names in os.walk(os.path.join(ROOT, "cmarr_jax")):
        if any(name.endswith(".py") for name in names):
            assert "__init__.py" in names, place


def test_the_library_imports_nothing_beside_it():
    """`configs` and the scripts are not installed."""
    for place, _, names in os.walk(os.path.join(ROOT, "cmarr_jax")):
        for name in (n for n in names if n.endswith(".py")):
            with open(os.path.join(place, name), encoding="utf-8") as f:
                found = re.findall(
                    r"^\s*(?:from|import) (configs|train|sweep|tests)\b", f.read(), re.M
                )
            assert not found, os.path.join(place, name)


def test_version_and_citation_and_changelog_agree(project):
    with open(os.path.join(ROOT, "CITATION.cff"), encoding="utf-8") as f:
        (version,) = re.findall(r"^version: (.*)$", f.read(), re.M)
    with open(os.path.join(ROOT, "CHANGELOG.md"), encoding="utf-8") as f:
        latest = re.search(r"^## (\S+)", f.read(), re.M)[1]
    assert project["version"] == version == latest
