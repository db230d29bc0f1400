import pytest

from cmarr_jax.cli import flags as cli
from cmarr_jax.cli.progress import Silent
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import prepare as prepare_lib
from cmarr_jax.runtime import memory
from tests import tiny


def prepare(tiny_pack, tmp_path, **fields):
    config = tiny.config("full_modality", **{"data.pack": tiny_pack.path}, **fields)
    return prepare_lib.prepare([config], Silent(), str(tmp_path))


def test_what_there_is_is_the_machines_or_less():
    with open("/proc/meminfo") as f:
        machine = int(f.readline().split()[1]) * 1024
    assert 2**28 < memory.host() <= machine
    assert memory.total() == memory.host()  # on CPU


def test_what_is_expected_grows_with_runs_and_features(tiny_pack, tmp_path):
    one, all_runs = (prepare(tiny_pack, tmp_path, fold=fold) for fold in (1, 0))
    size = one.vectors[-1].size
    state = memory.of_runs(size, 1)
    features = sum(x.nbytes for x in one.corpus.features.values())
    assert all_runs.memory - one.memory == pytest.approx(4.5 * 2 * state, rel=1e-6)
    on_disk = prepare(tiny_pack, tmp_path, fold=1, **{"data.stream": str(tmp_path)})
    assert one.memory - on_disk.memory == pytest.approx(2 * features, abs=2)


@pytest.mark.parametrize("loader", ["numpy", "tfds"])
def test_features_that_do_not_fit_are_refused_before_they_are_read(
    tiny_pack, tmp_path, monkeypatch, loader
):
    monkeypatch.setattr(memory, "host", lambda: 20_000)  # they are 27 kB
    fields = {"data.loader": loader, "data.data_dir": str(tmp_path / "tfds")}
    with pytest.raises(UserError, match=r"--config.data.stream=FOLDER, or lower --config.data.l"):
        prepare(tiny_pack, tmp_path, **fields)
    monkeypatch.setattr(memory, "total", lambda: 10**10)
    assert prepare(tiny_pack, tmp_path, **fields, **{"data.stream": str(tmp_path)}).corpus.on_disk


def test_runs_that_do_not_fit_are_refused_with_what_fits(tiny_pack, tmp_path, monkeypatch):
    wanted = prepare(tiny_pack, tmp_path, fold=1).memory
    monkeypatch.setattr(memory, "total", lambda: wanted)
    assert prepare(tiny_pack, tmp_path, fold=1).memory == wanted
    with pytest.raises(
        UserError, match=r"training 3 runs at once takes .* take fewer, --config.fo"
    ):
        prepare(tiny_pack, tmp_path)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")]
)
def test_memory_that_runs_out_is_one_line(error, monkeypatch, capsys):
    monkeypatch.setattr(cli.app, "run", lambda main, **_: main(["train.py"]))

    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "out of memory; take fewer runs at a time" in said
    error.args = ("something else",)
    if isinstance(error, RuntimeError):
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        assert ended.value.code == 1 and "error: RuntimeError: something" in capsys.readouterr().err
