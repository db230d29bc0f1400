"""One small pack, one undisturbed sweep of it and one compile cache for all faults."""

import pytest

from tests.conftest import write_pack
from tests.faults.runs import Sweeps


@pytest.fixture(scope="session")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    pack = write_pack(folder / "pack", sessions=2).path
    # The workers of one session share what they compile.
    server = Sweeps(folder, pack, tmp_path_factory.getbasetemp().parent / "cmarr_jax_xla")
    yield server
    server.close()


@pytest.fixture(scope="session")
def whole(sweeps, tmp_path_factory):
    """The folder of the undisturbed sweep."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    ended = sweeps.run(folder)
    assert ended.code == 0, ended.err
    return folder
