import os
import shutil

import numpy as np
import pytest

from cmarr_jax.data import pack, pipeline, pooling
from cmarr_jax.errors import UserError
from tests.conftest import write_pack


def assert_equal(ours, theirs, tolerance=1e-6):
    assert ours.modalities == theirs.modalities and ours.class_names == theirs.class_names
    for name in ("labels", "mask", "present"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in theirs.columns:
        np.testing.assert_array_equal(ours.columns[name], theirs.columns[name])
    for m in theirs.modalities:
        assert ours.features[m].dtype == theirs.features[m].dtype
        np.testing.assert_allclose(ours.features[m], theirs.features[m], atol=tolerance)


@pytest.mark.parametrize("align", ["pool", "interp"])
@pytest.mark.parametrize("length", [1, 5])
def test_tf_data_and_numpy_give_the_same_arrays(tiny_pack, tmp_path, align, length):
    fields = {"pack": tiny_pack.path, "align": align, "length": length}
    if length == 1:
        fields["statistics"] = "mean_max"
    assert_equal(
        pipeline.load(data_dir=str(tmp_path), **fields), pipeline.load(loader="numpy", **fields)
    )


@pytest.fixture
def bucket(monkeypatch):
    """A bucket at hand: TensorFlow's in-memory file system, made known to etils as gs:// is."""
    from etils.epath import gpath, register

    monkeypatch.setattr(gpath, "_URI_PREFIXES", (*gpath._URI_PREFIXES, "ram://"))
    monkeypatch.setattr(gpath, "_URI_SCHEMES", gpath._URI_SCHEMES | {"ram"})
    monkeypatch.setitem(gpath._URI_MAP_ROOT, "ram://", "/ram/")
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "ram", gpath.backend_lib.tf_backend)
    monkeypatch.setitem(register._URI_PREFIXES_TO_CLS, "ram://", gpath.PosixGPath)
    return "ram://bucket/prepared"


def test_a_prepared_dataset_is_read_from_a_bucket_without_its_pack(tiny_pack, tmp_path, bucket):
    import tensorflow as tf

    local = pipeline.load(pack=tiny_pack.path, data_dir=str(tmp_path / "tfds"), length=5)
    for file in (tmp_path / "tfds").rglob("*.*"):
        if file.is_file():
            to = f"{bucket}/{file.relative_to(tmp_path / 'tfds')}"
            tf.io.gfile.makedirs(os.path.dirname(to))
            tf.io.gfile.copy(str(file), to)
    shutil.rmtree(tmp_path / "tfds")
    assert_equal(pipeline.load(pack="", data_dir=bucket, length=5), local)


def test_pooling_presence_and_zeros(tiny_pack):
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    assert corpus.mask.all()
    for m, modality in enumerate(corpus.modalities):
        for i in range(len(corpus.labels)):
            sequence = tiny_pack.sequence(modality, i)
            assert corpus.present[i, m] == (len(sequence) > 0)
            want = pooling.fix_length(np.asarray(sequence), 4)
            np.testing.assert_array_equal(corpus.features[modality][i], want)
    assert not corpus.present.all()


def test_a_changed_pack_is_prepared_anew(tmp_path):
    path = str(tmp_path / "pack")
    write_pack(path, seed=0)
    before = pipeline.load(pack=path, length=2)
    tfds = tmp_path / "tfds"
    shutil.move(os.path.join(path, "tfds"), tfds)
    shutil.rmtree(path)
    write_pack(path, seed=1)
    after = pipeline.load(pack=path, data_dir=str(tfds), length=2)
    assert np.abs(after.features["text"] - before.features["text"]).max() > 0.1
    with pytest.raises(UserError, match="holds 2 prepared"):
        pipeline.load(pack="", data_dir=str(tfds), length=2)


def aligned_pack(path, lengths_of):
    return pack.write(
        str(path),
        name="aligned",
        class_names=["a"],
        columns={"id": ["x", "y"], "session": "12", "speaker": "12", "label": "aa"},
        sequences={
            m: [np.full((n, 2), n, np.float32) for n in lengths]
            for m, lengths in lengths_of.items()
        },
        provenance={},
    )


def test_aligned_packs_are_padded(tmp_path):
    made = aligned_pack(tmp_path / "p", {"text": (3, 2), "speech": (3, 0)})
    for loader in ("numpy", "tfds"):
        corpus = pipeline.load(pack=made.path, loader=loader, align="none", length=4)
        np.testing.assert_array_equal(corpus.mask, [[1, 1, 1, 0], [1, 1, 0, 0]])
        np.testing.assert_array_equal(corpus.present, [[1, 1], [1, 0]])
        np.testing.assert_array_equal(corpus.features["text"][0, :, 0], [3, 3, 3, 0])


@pytest.mark.parametrize("loader", ["numpy", "tfds"])
@pytest.mark.parametrize(
    "lengths, length, match",
    [((3, 2), 8, "'y' has .2, 3. rows"), ((3, 3), 2, "'x' has 3 rows")],
)
def test_what_does_not_align_is_refused(tmp_path, loader, lengths, length, match):
    made = aligned_pack(tmp_path / "p", {"text": lengths, "speech": (3, 3)})
    with pytest.raises(UserError, match=match):
        pipeline.load(pack=made.path, loader=loader, align="none", length=length)


@pytest.mark.parametrize(
    "fields",
    [
        {"align": "stretch"},
        {"loader": "other"},
        {"pack": "nowhere"},
        {"statistics": "median"},
        {"statistics": "mean_max"},
    ],
)
def test_an_impossible_choice_is_named(tiny_pack, fields):
    with pytest.raises(UserError, match=str(next(iter(fields.values())))):
        pipeline.load(**({"pack": tiny_pack.path, "loader": "numpy"} | fields))
