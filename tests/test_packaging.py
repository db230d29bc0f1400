"""One list of requirements, locks that cover it, and a wheel whose commands run from any folder."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cmarr_jax

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOCKS = {
    "": "requirements.lock",
    "train": "requirements.lock",
    "extract": "requirements-extract.lock",
}
ALL = "requirements-dev.lock"


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


def pins_of(lock):
    """Name -> {(version, on which Python or system)}."""
    pins = {}
    for name, version, marker in re.findall(r"^(\S+?)==(\S+)(.*?) \\$", read(lock), re.M):
        pins.setdefault(name, set()).add((version, marker))
    return pins


@pytest.fixture(scope="module")
def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The content of the wheel, as pip would lay it out."""
    pytest.importorskip("hatchling", reason="make test installs it")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


def test_the_locks_cover_what_the_project_asks_for(project):
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    for group, requirements in groups.items():
        for lock in {LOCKS.get(group, ALL), ALL}:
            pins = pins_of(lock)
            for requirement in map(Requirement, requirements):
                versions = [version for version, _ in pins[canonicalize_name(requirement.name)]]
                for version in versions:
                    assert requirement.specifier.contains(version, prereleases=True), requirement


def test_the_locks_pin_the_same():
    everything = pins_of(ALL)
    for lock in LOCKS.values():
        pins = pins_of(lock)
        assert len(pins) > 50
        for name, versions in pins.items():
            found = {version for version, _ in versions}
            assert found == {version for version, _ in everything[name]}, name


def test_a_lock_holds_a_hash_of_each_pin():
    for lock in {*LOCKS.values(), ALL}:
        for entry in re.split(r"\n(?=\S)", read(lock)):
            assert entry.startswith("#") or "--hash=sha256:" in entry, entry


def test_training_needs_nothing_of_extraction(project):
    extract = {
        canonicalize_name(Requirement(r).name) for r in project["optional-dependencies"]["extract"]
    }
    # TensorFlow needs the first two, matplotlib the third.
    assert extract & set(pins_of("requirements.lock")) <= {"h5py", "protobuf", "pillow"}
    assert "tensorflow-cpu" not in pins_of("requirements-extract.lock")


@pytest.mark.parametrize("name", ["requirements", "requirements-extract"])
def test_a_requirements_file_is_its_lock(name):
    lines = [line for line in read(f"{name}.txt").splitlines() if not line.startswith("#")]
    assert lines == [f"-r {name}.lock"]


def test_every_console_command_exists(project):
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_wheel_holds_what_is_no_module_too(installed):
    for file in ("py.typed", "results/page.css", "programs/train.py", "programs/configs/demo.py"):
        assert (installed / "cmarr_jax" / file).is_file(), file
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"cmarr_jax"}


def run_installed(installed, folder, command, *flags):
    code = f"from cmarr_jax.cli import programs; programs.{command}()"
    return subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["train", "evaluate", "sweep"])
def test_an_installed_script_shows_its_own_help(installed, tmp_path, command):
    result = run_installed(installed, tmp_path, command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"python {command}.py" in result.stdout and "--workdir" in result.stdout


@pytest.mark.parametrize(
    "flags", [["--config=configs/demo.py:no_udcl"], ["--config", "configs/iemocap.py:alpha=0.5"]]
)
def test_an_installed_script_finds_its_configs(installed, tmp_path, flags):
    result = run_installed(installed, tmp_path, "train", *flags)
    assert result.returncode == 2 and "no such pack; make it with" in result.stderr, result.stderr


def test_a_config_of_the_working_folder_comes_first(installed, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text("raise AttributeError\n")
    result = run_installed(installed, tmp_path, "train", "--config=configs/demo.py")
    assert result.returncode != 0 and "no such pack; make it with" not in result.stderr


@pytest.mark.slow
def test_an_installed_library_trains_from_python_in_any_folder(installed, tiny_pack, tmp_path):
    """Where another project's `configs` lies at hand; by a system, and by a config's name."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("MINE = 1\n")
    code = f"""
import cmarr_jax, configs
small = {{"data.loader": "numpy", "train": {{"epochs": 1, "batch_size": 8}}, "fold": 1}}
for number, what in enumerate(("full_modality", "configs/demo.py:full_modality")):
    results = cmarr_jax.train(what, {tiny_pack.path!r}, f"DIR{{number}}", **small)
    print(results.name, configs.MINE, cmarr_jax.__file__)
"""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    place = installed / "cmarr_jax" / "__init__.py"
    assert done.stdout.splitlines() == [f"Baseline 1 {place}"] * 2


@pytest.mark.slow
def test_after_make_a_script_in_any_folder_finds_the_library(tmp_path):
    """What the Makefile runs, in a virtual environment of its own."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=tmp_path, check=True
    )
    (line,) = re.findall(r"-c '(.*?)'\n", read("Makefile").replace("\\\n", ""), re.DOTALL)
    python = str(tmp_path / ".venv" / "bin" / "python")
    subprocess.run([python, "-c", line], cwd=ROOT, check=True)
    code = "import cmarr_jax; print(cmarr_jax.__file__)"
    done = subprocess.run([python, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == os.path.join(ROOT, "cmarr_jax", "__init__.py")


def test_every_folder_with_modules_is_a_package():
    for place, _, names in os.walk(os.path.join(ROOT, "cmarr_jax")):
        if any(name.endswith(".py") for name in names):
            assert "__init__.py" in names, place


def test_the_library_imports_nothing_beside_it():
    """`configs` and the scripts stand above it."""
    for place, _, names in os.walk(os.path.join(ROOT, "cmarr_jax")):
        for name in (n for n in names if n.endswith(".py")):
            with open(os.path.join(place, name), encoding="utf-8") as f:
                found = re.findall(
                    r"^\s*(?:from|import) (configs|train|evaluate|sweep|tests|benchmarks)\b",
                    f.read(),
                    re.M,
                )
            assert not found, os.path.join(place, name)


def test_version_and_authors_are_said_once(project):
    citation = read("CITATION.cff")
    (version,) = re.findall(r"^version: (.*)$", citation, re.M)
    (name,) = re.findall(r'^  - name: "(.*)"$', citation, re.M)
    latest = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.M)[1]
    assert project["version"] == version == latest == cmarr_jax.__version__
    assert project["authors"] == [{"name": name}]
