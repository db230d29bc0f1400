"""A prepared dataset (TFDS) that is old, half-written or damaged is rebuilt, or refused."""

import os
import random
import shutil
import signal
import time

import numpy as np
import pytest

from cmarr_jax.data import pipeline
from cmarr_jax.errors import UserError
from tests.conftest import write_pack
from tests.faults import runs


@pytest.fixture(scope="module")
def prepared(tiny_pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "tfds"
    pipeline.load(pack=tiny_pack.path, data_dir=str(folder), length=2)
    return folder


def load(pack, folder):
    return pipeline.load(pack=pack, data_dir=str(folder), length=2)


def assert_right(corpus, pack):
    theirs = pipeline.load(pack=pack.path, loader="numpy", length=2)
    np.testing.assert_array_equal(corpus.labels, theirs.labels)
    assert corpus.class_names == theirs.class_names and corpus.name == theirs.name
    for m in theirs.modalities:
        np.testing.assert_allclose(corpus.features[m], theirs.features[m], atol=1e-6)


def the_file(folder, part):
    (file,) = [p for p in folder.rglob("*") if p.is_file() and part in p.name]
    return file


def damage(file, how):
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    if how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    if how == "flipped":
        half = len(content) // 2
        file.write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])


FILES = ("tfrecord", "features.json", "dataset_info.json", "metadata.json", "seal.json")


@pytest.mark.parametrize(
    "part, how",
    [("tfrecord", "flipped")]
    + [
        pytest.param(part, how, marks=pytest.mark.faults)
        for part in FILES
        for how in ("missing", "truncated", "flipped")
        if (part, how) != ("tfrecord", "flipped")
    ],
)
def test_what_is_damaged_is_rebuilt_or_without_its_pack_refused(
    prepared, tiny_pack, tmp_path, capsys, part, how
):
    folder = runs.copy(prepared, tmp_path / "tfds")
    damage(the_file(folder, part), how)
    if (part, how) == ("dataset_info.json", "missing"):  # then it is not even found
        match = "holds 0 prepared"
    else:
        match = r"1\.1\.0: .*; prepare it anew by naming its pack"
    with pytest.raises(UserError, match=match):
        load("", folder)
    assert_right(load(tiny_pack.path, folder), tiny_pack)
    assert capsys.readouterr().err.count("preparing it anew") == 1
    assert_right(load("", folder), tiny_pack)


@pytest.mark.faults
def test_a_dataset_of_an_older_version_of_the_library_is_left_alone(prepared, tiny_pack, tmp_path):
    folder = runs.copy(prepared, tmp_path / "tfds")
    new = the_file(folder, "seal.json").parent
    new.rename(new.parent / "1.0.0")
    (new.parent / "1.0.0/seal.json").unlink()
    with pytest.raises(UserError, match="holds 0 prepared"):
        load("", folder)
    assert_right(load(tiny_pack.path, folder), tiny_pack)


@pytest.mark.faults
def test_a_dataset_of_an_older_pack_is_not_the_new_ones(tiny_pack, prepared, tmp_path):
    folder = runs.copy(prepared, tmp_path / "tfds")
    newer = write_pack(tmp_path / "pack", seed=1)
    assert_right(load(newer.path, folder), newer)
    assert_right(load(tiny_pack.path, folder), tiny_pack)


@pytest.mark.faults
def test_killed_while_preparing_it_prepares_again(sweeps, whole, tmp_path):
    draw = random.Random(5)
    pack, out = tmp_path / "pack", tmp_path / "out"
    shutil.copytree(sweeps.pack, pack)
    flags = [f"--config.data.pack={pack}", "--config.data.loader=tfds", "--config.train.epochs=1"]
    for k in range(5):
        pid = sweeps.start(out, *flags)
        draft = pack / "tfds/draft"
        while not draft.exists() and sweeps.cpu_seconds(pid) is not None:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.5) if k else 0)
        os.kill(pid, signal.SIGKILL)
        sweeps.wait(pid)
    ended = sweeps.run(out, *flags)
    assert ended.code == 0, ended.err
    assert sorted(os.listdir(pack / "tfds")) == ["feature_pack", "lock"]
    assert_right(load("", pack / "tfds"), pipeline.pack_lib.read(str(pack)))


@pytest.mark.faults
def test_two_sweeps_of_one_new_pack_prepare_it_once(sweeps, tmp_path):
    pack = tmp_path / "pack"
    shutil.copytree(sweeps.pack, pack)
    flags = [f"--config.data.pack={pack}", "--config.data.loader=tfds", "--config.train.epochs=1"]
    pids = [sweeps.start(tmp_path / name, *flags) for name in "ab"]
    for pid in pids:
        ended = sweeps.wait(pid)
        assert ended.code == 0, ended.err
    assert (tmp_path / "a/results.csv").read_bytes() == (tmp_path / "b/results.csv").read_bytes()


@pytest.mark.faults
def test_where_it_cannot_be_prepared_it_says_so(sweeps, tmp_path):
    pack = tmp_path / "pack"
    shutil.copytree(sweeps.pack, pack)
    (pack / "tfds").write_text("a file where the folder should be")
    flags = [f"--config.data.pack={pack}", "--config.data.loader=tfds"]
    ended = sweeps.run(tmp_path / "out", *flags)
    assert ended.code == 2 and len(ended.errors) == 1, ended.err
    assert "cannot prepare the dataset" in ended.errors[0]
    assert not (tmp_path / "out").exists()
