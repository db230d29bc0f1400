import csv

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.results import history
from tests.results import results_folder


@pytest.fixture
def run_ids():
    return results_folder.run_ids_of(2, 2, 8)


def test_a_row_an_epoch_fold_and_seed(tmp_path, run_ids, rng):
    writer = history.History(str(tmp_path), run_ids, "student")
    first = results_folder.epoch(1, run_ids, rng, "teacher", ("loss", "imagined"))
    second = results_folder.epoch(1, run_ids, rng, "", ("loss", "cls"))
    writer.write(first)
    writer.write(second)
    with open(tmp_path / "history.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == [
        "stage", "epoch", "fold", "seed", "val_uar", "loss", "imagined", "cls",
        "val_cross_entropy",
    ]  # fmt: skip
    keys = [(r["stage"], r["epoch"], r["fold"], r["seed"]) for r in rows]
    runs = [("1", "0"), ("2", "0"), ("1", "1"), ("2", "1")]
    assert keys == [(s, "1", *run) for s in ("teacher", "student") for run in runs]
    assert float(rows[5]["cls"]) == pytest.approx(second.terms["cls"][1], rel=1e-5)
    assert rows[5]["imagined"] == "" and float(rows[1]["val_uar"]) == pytest.approx(
        first.validated.uar[1], abs=1e-6
    )


def test_a_resumed_sweep_repeats_no_epoch(tmp_path, run_ids, rng):
    """Stopped after epoch 3 with a checkpoint of epoch 1: epochs 2 and 3 are trained again."""
    epochs = [results_folder.epoch(n, run_ids, rng) for n in (1, 2, 3)]
    teacher = results_folder.epoch(3, run_ids, rng, "teacher")
    whole = history.History(str(tmp_path), run_ids, "train")
    for e in (teacher, *epochs):
        whole.write(e)
    before = (tmp_path / "history.csv").read_bytes()
    resumed = history.History(str(tmp_path), run_ids, "train")
    resumed.write(epochs[1])
    assert [int(r["epoch"]) for r in history.read(str(tmp_path))][::4] == [3, 1, 2]
    resumed.write(epochs[2])
    assert (tmp_path / "history.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1  # no drafts left behind


def test_no_file_is_no_history_and_a_damaged_one_is_named(tmp_path):
    assert history.read(str(tmp_path)) == []
    for content in ("stage,epoch\ntrain,x\n", "a,b\n1,2\n", "stage,epoch,fold,seed\ntrain,1\n"):
        (tmp_path / "history.csv").write_text(content)
        with pytest.raises(UserError, match=r"history\.csv: damaged"):
            history.read(str(tmp_path))
