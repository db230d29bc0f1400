import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmarr_jax.data import describe, pack
from cmarr_jax.errors import UserError
from tests.conftest import write_pack

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    num = data.draw(st.integers(1, 5))
    people = NAMES.filter(lambda name: name not in ("nan", "NaN"))  # no speaker, see docs/packs.md
    ids = data.draw(st.lists(people, min_size=num, max_size=num, unique=True))
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
    with pytest.raises(UserError, match="row 3, 'u1', has no row in any modality"):
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


def run(*arguments):
    command = [sys.executable, "-m", "cmarr_jax.data.pack", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def described_pack(tmp_path):
    """Five utterances, one unlabelled, with every column and an extraction's problems."""
    path = str(tmp_path / "pack")
    lengths = {"text": [1, 2, 4, 1, 3], "video": [0, 5, 0, 1, 0]}
    pack.write(
        path,
        name="five",
        class_names=["ang", "sad", "joy"],
        columns={
            "id": list("abcde"),
            "session": ["1", "1", "2", "10", "10"],
            "speaker": ["1F", "1M", "2F", "10F", "10F"],
            "label": ["ang", "sad", "ang", "", "sad"],
            "split": ["train", "train", "val", "test", "test"],
            "group": ["g", "g", "h", "", "i"],
        },
        sequences={
            m: [np.full((n, d), n, "f4") for n in lengths[m]]
            for m, d in [("text", 3), ("video", 2)]
        },
        provenance={"made_by": "tests", "encoder": {"weights": "0" * 200, "list": list(range(9))}},
    )
    with open(path + "/problems.csv", "w") as f:
        f.write(
            "id,modality,status,detail\na,video,no_face,\nc,video,no_face,x\ne,text,truncated,\n"
        )
    return path


def test_describe_prints_what_is_inside(described_pack):
    result = run("describe", described_pack)
    assert result.returncode == 0, result.stderr
    print_of_pack = pack.fingerprint(pack.read(described_pack))
    assert result.stdout == (
        f"{described_pack}: five\n"
        "5 utterances, 3 sessions, 4 speakers, 3 groups, 3 splits, 1 unlabelled\n"
        f"fingerprint {print_of_pack}\n"
        "\n"
        "             all  ang  sad  joy  none  text  video  speakers\n"
        "session 1      2    1    1    0     0     2      1  1F 1M\n"
        "session 2      1    1    0    0     0     1      0  2F\n"
        "session 10     2    0    1    0     1     2      1  10F\n"
        "split train    2    1    1    0     0     2      1  1F 1M\n"
        "split val      1    1    0    0     0     1      0  2F\n"
        "split test     2    0    1    0     1     2      1  10F\n"
        "all            5    2    2    0     1     5      2  1F 1M 2F 10F\n"
        "\n"
        "modality  dim    dtype  have it  rows  min  median  max   MB\n"
        "text        3  float32   100.0%    11    1       2    4  0.0\n"
        "video       2  float32    40.0%     6    1       3    5  0.0\n"
        "\n"
        "has     text 3, text+video 2\n"
        "\n"
        "problems.csv     text truncated 1, video no_face 2\n"
        "\n"
        "made by\n"
        "  made_by: tests\n"
        "  encoder\n"
        f"    weights: {'0' * 83} ...\n"
        "    list: 9 entries\n"
    )


def test_validate_says_what_is_sound_and_what_looks_wrong(described_pack):
    result = run("validate", described_pack)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert (
        lines[0]
        == "ok       5 utterances: ids unique, labels known, all numbers finite; 1 have no label and are in no part"
    )
    assert lines[1] == "ok       protocol.scheme=split: 1 fold, train/val/test 2/1/1"
    assert lines[-1] == f"{described_pack}: valid, 7 warnings"
    warnings = "\n".join(lines[2:-1])
    assert "warning  class 'joy' has no utterance" in warnings
    assert "warning  video: 60% of the utterances lack it" in warnings
    assert "warning  session 2 has no video at all" in warnings
    assert "warning  session 2 has utterances of one class alone" in warnings
    assert "protocol.scheme=session cannot be used: fold" in warnings


def test_validate_counts_folds_and_finds_zeros(tiny_pack, tmp_path):
    sound, warnings = describe.validate(tiny_pack)
    assert sound[1].startswith("protocol.scheme=session: 3 folds, train/val/test ")
    assert sound[2].startswith("protocol.scheme=speaker: 6 folds") and warnings == []
    features = tiny_pack.features["text"].copy()
    features[[3, 70]] = 0
    features[:, 5] = 2.5
    features[[3, 70], 5] = 0
    features[:, 7] = 0
    _, warnings = describe.validate(tiny_pack._replace(features={"text": features}))
    assert warnings[0].startswith(f"text: 2 of {len(features)} rows are zeros alone")
    assert warnings[1] == "text: 1 of 12 dimensions are the same in every row"
    features = {"text": tiny_pack.features["text"], "tone": tiny_pack.features["text"]}
    offsets = dict.fromkeys(features, tiny_pack.offsets["text"])
    labels = tiny_pack.labels.copy()
    labels[:2] = -1
    odd = tiny_pack._replace(features=features, offsets=offsets, labels=labels)
    sound, warnings = describe.validate(odd)
    assert sound[0].endswith("; 2 have no label and are in no part")
    wanted = "train.py cannot use this pack: modalities ['text', 'tone']: two begin"
    assert warnings[0].startswith(wanted)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["describe"], "wanted `describe PACK` or `validate PACK`"),
        (["show", "x"], "wanted `describe PACK` or `validate PACK`"),
        (["describe", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(arguments, expected):
    result = run(*arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_validate_refuses_a_damaged_pack(described_pack):
    os.truncate(described_pack + "/text.npy", 200)
    result = run("validate", described_pack)
    assert result.returncode == 2 and "text.npy: not a plain NumPy array" in result.stderr
