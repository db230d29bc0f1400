"""The tests stand as the library does: a folder a room, a file a module; no module goes untested."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
LIBRARY = TESTS.parent / "cmarr_jax"

# Folders of tests of the whole, and tests of what lies beside the library.
WHOLE = {
    "configs": "of configs/",
    "faults": "kills, full disks and damage, of whole sweeps",
    "misuse": "what users do wrong, and what nobody may do, across all modules",
}
OF_SEVERAL = {
    "data/test_commands.py": "the commands of data and extract, in one way each",
    "data/test_importers_odd.py": "of data/importers, what is odd in a release",
    "data/test_names.py": "a folder's name, in every command that takes one",
    "data/test_pickles.py": "of data/importers/pickles.py, long enough to stand alone",
    "extract/models/test_bfloat16.py": "the encoders agree in either precision",
    "extract/test_real_speech.py": "published weights on recorded speech",
    "extract/models/test_text_models.py": "what every text encoder must keep",
    "extract/test_end_to_end.py": "from a release's folder to a pack",
    "extract/test_malformed_snapshots.py": "a model's folder with a fault, through the command",
    "systems/test_adding.py": "of docs/systems.md",
    "systems/test_baselines.py": "what every system promises, a parameter a system",
    "systems/test_float64.py": "the long sums of every system against float64",
    "test_api.py": "of `import cmarr_jax`",
    "test_benchmarks.py": "of benchmarks/",
    "test_docs.py": "of docs/",
    "test_mirror.py": "of tests/",
    "test_packaging.py": "of pyproject.toml and the requirements",
    "test_readme.py": "of README.md",
    "test_real.py": "of a real corpus, where there is one",
    "test_recovery_map.py": "of benchmarks/recovery_map.py, long enough to stand alone",
    "test_sweep.py": "of sweep.py",
    "workdir/test_corpus.py": "the corpus' fingerprint, from the pack to the table",
}
# Modules, or all of a folder, that quick tests reach through another module alone.
THROUGH = {
    "cli/arguments": "cli/test_flags.py",
    "cli/programs": "test_packaging.py",
    "data/importers": "data/test_importers.py",
    "data/manifest": "data/test_pack.py",
    "experiment/recording": "test_api.py",
    "extract/corpora/counts": "extract/corpora/test_iemocap.py",
    "extract/corpora/csv_file": "extract/corpora/test_table.py",
    "extract/corpora/files": "extract/corpora/test_cremad.py",
    "extract/corpora/transcripts": "extract/corpora/test_iemocap.py",
    "extract/models/config": "extract/test_pretrained.py",
    "extract/models/tensors": "extract/test_weights.py",
    "extract/pictures": "extract/test_video.py",
    "nn/gelu": "nn/test_umc.py",
    "results/audit_pieces": "results/test_report_page.py",
    "runtime/preemption": "test_api.py",
    "systems": "systems/test_baselines.py",
    "training/testing": "test_api.py",
}


def modules():
    """Names as `nn/umc`; of a package its folder's."""
    return {str(f.relative_to(LIBRARY).with_suffix("")) for f in LIBRARY.rglob("*.py")}


def test_every_test_file_is_named_after_its_module():
    known = {m.removesuffix("/__init__").replace("__main__", "main") for m in modules()}
    exceptions = dict(OF_SEVERAL)
    for file in TESTS.rglob("test_*.py"):
        place = file.relative_to(TESTS)
        module = place.with_name(file.stem.removeprefix("test_"))
        if place.parts[0] not in WHOLE and not exceptions.pop(str(place), None):
            assert str(module) in known, f"{place}: cmarr_jax has no module {module}"
    assert not exceptions, "no such file"


def test_every_module_has_a_test_or_is_imported_by_one():
    tested = set()
    for file in TESTS.rglob("*.py"):
        if "faults" in file.parts:
            continue
        tested.add(str(file.relative_to(TESTS).with_name(file.stem.removeprefix("test_"))))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            tested |= {name.removeprefix("cmarr_jax.").replace(".", "/") for name in names}
    unnamed = {m for m in modules() - tested if not m.endswith("__init__")}
    through = {m: next((t for t in THROUGH if f"{m}/".startswith(f"{t}/")), None) for m in unnamed}
    assert not [m for m, door in through.items() if door is None]
    assert set(through.values()) == set(THROUGH), "each of these has a test of its own by now"
    assert all((TESTS / test).exists() for test in THROUGH.values())
