import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmarr_jax.data import pack
from cmarr_jax.errors import UserError
from tests.conftest import write_pack

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    num = data.draw(st.integers(1, 5))
    ids = data.draw(st.lists(NAMES, min_size=num, max_size=num, unique=True))
    classes = data.draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    labels = data.draw(st.lists(st.sampled_from(["", *classes]), min_size=num, max_size=num))
    dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=num, max_size=num))
    rng = np.random.default_rng(0)
    sequences = {
        "text": [rng.normal(size=(1, 3)).astype(dtype) for _ in range(num)],
        "speech": [rng.normal(size=(n, 2)).astype(dtype) for n in lengths],
    }
    columns = {"id": ids, "session": ["1"] * num, "speaker": ids, "label": labels, "text": ids}
    path = str(tmp_path_factory.mktemp("p") / "pack")
    made = pack.write(
        path, name="x", class_names=classes, columns=columns, sequences=sequences, provenance={}
    )
    assert made.columns["id"].tolist() == ids and made.columns["text"].tolist() == ids
    assert [made.class_names[k] if k >= 0 else "" for k in made.labels] == labels
    for modality, arrays in sequences.items():
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(made.sequence(modality, i), array)
            assert made.sequence(modality, i).dtype == dtype
    assert pack.fingerprint(made) == pack.fingerprint(pack.read(path))


def rewrite_json(path, **fields):
    file = os.path.join(path, "pack.json")
    with open(file) as f:
        content = json.load(f)
    with open(file, "w") as f:
        json.dump(content | fields, f)


def replace_file(file, content):
    with open(file, "w") as f:
        f.write(content)


def replace_in_csv(path, old, new):
    file = os.path.join(path, "utterances.csv")
    with open(file) as f:
        content = f.read()
    assert old in content
    with open(file, "w") as f:
        f.write(content.replace(old, new, 1))


def save(path, name, array):
    np.save(os.path.join(path, name), array, allow_pickle=True)


DAMAGE = {
    "no manifest": (lambda p: os.remove(p + "/pack.json"), "pack.json: missing"),
    "not json": (lambda p: replace_file(p + "/pack.json", "{"), "not JSON"),
    "future version": (lambda p: rewrite_json(p, format_version=2), "format_version is 2"),
    "class twice": (lambda p: rewrite_json(p, classes=["a", "a", "b", "c"]), "twice"),
    "path as modality": (lambda p: rewrite_json(p, modalities=["../x"]), "plain word"),
    "wrong dim": (lambda p: rewrite_json(p, dims={"text": 7, "speech": 10, "video": 6}), "wanted .rows, 7."),
    "no utterances": (lambda p: os.remove(p + "/utterances.csv"), "utterances.csv: missing"),
    "unknown column": (lambda p: replace_in_csv(p, "group", "grp"), "header"),
    "duplicate id": (lambda p: replace_in_csv(p, "u001", "u000"), "row 3 repeats the id 'u000'"),
    "unknown label": (lambda p: replace_in_csv(p, ",a,", ",zz,"), "label 'zz'"),
    "empty speaker": (lambda p: replace_in_csv(p, "1F", ""), "row 2 has an empty speaker"),
    "missing field": (lambda p: replace_in_csv(p, "u000,", ""), "row 2 has 4 fields"),
    "no features": (lambda p: os.remove(p + "/text.npy"), "text.npy: missing"),
    "object array": (lambda p: save(p, "text.npy", np.array([{}])), "not a plain NumPy array"),
    "doubles": (lambda p: save(p, "text.npy", np.zeros((3, 12))), "dtype is <f8"),
    "big endian": (lambda p: save(p, "text.npy", np.zeros((3, 12), ">f4")), "dtype is >f4"),
    "truncated": (lambda p: os.truncate(p + "/text.npy", 200), "not a plain NumPy array"),
    "rows past the end": (lambda p: save(p, "text.npy", np.zeros((3, 12), "f4")), "wanted 0 to 3"),
    "short offsets": (lambda p: save(p, "text.offsets.npy", np.arange(4)), r"wanted '<i8' of shape \(61,\)"),
    "nan": (lambda p: poison(p), "row 5 .utterances.csv row"),
    "offsets go back": (lambda p: go_back(p), "goes back at entry 2"),
}  # fmt: skip


def poison(path):
    features = np.load(path + "/text.npy")
    features[5, 3] = np.nan
    save(path, "text.npy", features)


def go_back(path):
    offsets = np.load(path + "/text.offsets.npy")
    offsets[1] = offsets[2] + 1
    save(path, "text.offsets.npy", offsets)


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_pack_is_refused_in_one_line(tmp_path, case):
    damage, match = DAMAGE[case]
    path = write_pack(tmp_path / "pack").path
    damage(path)
    with pytest.raises(UserError, match=match) as error:
        pack.read(path)
    assert "\n" not in str(error.value) and path in str(error.value)


def test_an_utterance_with_no_modality_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="'u1' has no row in any modality"):
        pack.write(
            str(tmp_path / "pack"),
            name="x",
            class_names=["a"],
            columns={"id": ["u0", "u1"], "session": "11", "speaker": "11", "label": "aa"},
            sequences={"text": [np.ones((1, 2), "f4"), np.ones((0, 2), "f4")]},
            provenance={},
        )
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_not_overwritten(tmp_path, tiny_pack):
    with pytest.raises(UserError, match="exists already"):
        write_pack(tiny_pack.path)
