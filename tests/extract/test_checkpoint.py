"""Weights in their four forms; what spoils them is in test_malformed_snapshots.py."""

import json
import os
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("safetensors")

import safetensors.numpy as safetensors

from cmarr_jax.errors import UserError
from cmarr_jax.extract import checkpoint
from tests.extract import stand_in
from tests.extract.test_pytorch_file import write_sequence

SINGLE = {
    "model.safetensors": lambda files, folder: files,
    "pytorch_model.bin": stand_in.as_bin,
    "sequence": lambda files, folder: stand_in.as_bin(files, folder, write_sequence),
}
FORMS = SINGLE | {
    "model.safetensors.index.json": lambda f, d: stand_in.in_shards(f, d, "model.safetensors"),
    "pytorch_model.bin.index.json": lambda f, d: stand_in.in_shards(f, d, "pytorch_model.bin"),
}


def written(form, tensors, tmp_path):
    """A folder with the tensors in that form; returns the file to read."""
    files = FORMS[form]({"model.safetensors": safetensors.save(tensors)}, str(tmp_path))
    os.makedirs(tmp_path / "snapshot", exist_ok=True)
    for name, content in files.items():
        (tmp_path / "snapshot" / name).write_bytes(content)
    return str(tmp_path / "snapshot" / checkpoint.find(files))


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_tensors(form, tmp_path, rng):
    tensors = {f"layer.{k}.weight": rng.normal(size=(k, 3)).astype("f4") for k in range(1, 6)}
    made = checkpoint.read(written(form, tensors, tmp_path))
    assert made.keys() == tensors.keys()
    for name in tensors:
        np.testing.assert_array_equal(made[name], tensors[name])
        assert made[name].dtype == np.float32


def test_precisions_stay_and_counters_may_be_whole_numbers(tmp_path):
    tensors = {
        **{d: np.arange(3, dtype=d) for d in ("float16", "float32", "float64")},
        "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
        "embeddings.position_ids": np.arange(3),
        "mask": np.array([True, False]),
    }
    made = checkpoint.read(written("model.safetensors", tensors, tmp_path))
    assert {k: v.dtype.name for k, v in made.items()} == {
        k: v.dtype.name for k, v in tensors.items()
    }
    assert all((made[k] == v).all() for k, v in tensors.items())


def test_only_what_the_index_names_is_read(tmp_path, rng):
    file = written(
        "model.safetensors.index.json", {"a": rng.normal(size=4), "b": np.ones(2)}, tmp_path
    )
    (tmp_path / "snapshot" / "model-00003-of-00003.safetensors").write_bytes(b"no weights")
    assert sorted(checkpoint.read(file)) == ["a", "b"]
    names = [os.path.basename(x) for x in checkpoint.files(file)]
    assert names == [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_in_memory_once(form, tmp_path, rng):
    """2 MB a tensor, 32 MB in all; a large model on a small machine needs this."""
    tensors = {f"{k}.weight": rng.normal(size=(512, 1024)).astype("f4") for k in range(16)}
    size = sum(x.nbytes for x in tensors.values())
    file = written(form, tensors, tmp_path)
    tracemalloc.start()
    made = checkpoint.read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made) == 16 and size <= peak < 1.2 * size


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Form -> the file of a small model, and its bytes."""
    rng = np.random.default_rng(1)
    tensors = {"a.weight": rng.normal(size=(2, 3)).astype("f4"), "b": np.arange(4)}
    tensors["b"] = tensors["b"].astype("f4")
    folder = tmp_path_factory.mktemp("small")
    found = {}
    for form in SINGLE:
        os.mkdir(folder / form)
        file = written(form, tensors, folder / form)
        with open(file, "rb") as f:
            found[form] = file, f.read()
    return tensors, found


@pytest.mark.parametrize("form", SINGLE)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_or_a_cut_gives_tensors_or_one_line(small, form, data):
    """A zip archive has checksums, so what is read from it is what was written."""
    tensors, found = small
    file, raw = found[form]
    place = data.draw(st.integers(0, len(raw) - 1), "place")
    bit = data.draw(st.one_of(st.none(), st.integers(0, 7)), "bit, or a cut")
    changed = bytearray(raw)
    if bit is None:
        del changed[place:]
    else:
        changed[place] ^= 1 << bit
    with open(file, "wb") as f:
        f.write(changed)
    made, said = {}, f"{file}: "
    try:
        made = checkpoint.read(file)
    except UserError as e:
        said = str(e)
    assert said.startswith(f"{file}: ") and "\n" not in said
    if not made:
        return
    assert bit is not None
    assert all(isinstance(x, np.ndarray) and np.isfinite(x).all() for x in made.values())
    if form == "pytorch_model.bin":
        assert made.keys() == tensors.keys()
        assert all((made[name] == tensors[name]).all() for name in tensors)


@given(
    weight_map=st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.text(max_size=40), st.integers(), st.none(), st.just("../x.safetensors")),
        max_size=3,
    )
)
@settings(max_examples=100, deadline=None)
def test_whatever_an_index_names_lies_in_its_folder(small, weight_map):
    file = os.path.join(
        os.path.dirname(small[1]["model.safetensors"][0]), "x.safetensors.index.json"
    )
    with open(file, "w") as f:
        json.dump({"weight_map": weight_map}, f)
    try:
        names = checkpoint.shards(file)
    except UserError:
        return
    for name in names:
        assert os.path.dirname(os.path.realpath(f"/folder/{name}")) == "/folder"
