"""What public bug reports break: padding, odd values, ragged lists, foreign keys, advice."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError
from tests.data.test_importers import imported, refused, run, write_csv

IDS = ["vA$_$0", "vA$_$1", "vB$_$0", "vC$_$0"]


def part(ids, scores, **arrays):
    made = {"id": ids, "annotations": ["Negative" if s < 0 else "Positive" for s in scores]}
    return made | {"regression_labels": np.array(scores)} | arrays


def parts(rng, *, wide=6, dims=5, **arrays):
    """train 2, valid 1, test 1."""
    arrays = {"audio": rng.normal(size=(4, wide, dims)) + 3} | arrays
    bounds = {"train": slice(0, 2), "valid": slice(2, 3), "test": slice(3, 4)}
    scores = [-1.0, 1.0, -2.0, 0.5]
    return {
        name: part(IDS[b], scores[b], **{k: v[b] for k, v in arrays.items()})
        for name, b in bounds.items()
    }


def save(tmp_path, content):
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(content))
    return ["mmsa", "--file", file]


def notes(pack):
    return "\n".join(pack.provenance.get("changed", ()))


LENGTHS = [3, 4, 6, 2]


def padded(rng, front, value=0.0):
    wide = np.full((4, 6, 5), value)
    rows = [rng.normal(size=(n, 5)) + 3 for n in LENGTHS]
    for k, row in enumerate(rows):
        start = (
            (6 - len(row)) if front == "front" else (6 - len(row)) // 2 if front == "both" else 0
        )
        wide[k, start : start + len(row)] = row
    return wide, rows


@pytest.mark.parametrize("front", ["front", "back", "both"])
@pytest.mark.parametrize("keep", [(), ("--keep-zero-rows",)])
def test_mmsa_padding_is_found_where_it_is(capsys, tmp_path, rng, front, keep):
    wide, rows = padded(rng, front)
    content = parts(rng, audio=wide, audio_lengths=LENGTHS)
    pack = imported(capsys, tmp_path, *save(tmp_path, content), *keep)
    for k, row in enumerate(rows):
        np.testing.assert_array_equal(pack.sequence("speech", k), row.astype("f4"))


@pytest.mark.parametrize("front", ["front", "back"])
def test_a_mask_of_the_text_is_believed_wherever_it_is(capsys, tmp_path, rng, front):
    mask = np.zeros((4, 3, 6))
    for k, n in enumerate(LENGTHS):
        mask[k, 1, slice(6 - n, 6) if front == "front" else slice(0, n)] = 1
    text = rng.normal(size=(4, 6, 8))  # what BERT gives at padding is not zero
    pack = imported(capsys, tmp_path, *save(tmp_path, parts(rng, text=text, text_bert=mask)))
    for k in range(4):
        np.testing.assert_array_equal(
            pack.sequence("text", k), text[k][mask[k, 1] > 0].astype("f4")
        )


def test_csv_padding_in_front(capsys, tmp_path, rng):
    wide, rows = padded(rng, "front")
    write_csv(
        tmp_path / "u.csv",
        [
            ["id", "session", "speaker", "label"],
            *([i, i, i, "ab"[k % 2]] for k, i in enumerate("uvwx")),
        ],
    )
    np.savez(tmp_path / "f.npz", s=wide, s_lengths=np.array(LENGTHS, float))
    pack = imported(
        capsys,
        tmp_path,
        "csv",
        "--utterances",
        tmp_path / "u.csv",
        "--speech",
        f"{tmp_path}/f.npz:s",
    )
    assert np.diff(pack.offsets["speech"]).tolist() == LENGTHS
    np.testing.assert_array_equal(pack.sequence("speech", 0), rows[0].astype("f4"))


def test_frames_beyond_a_length_are_counted(capsys, tmp_path, rng):
    pack = imported(capsys, tmp_path, *save(tmp_path, parts(rng, audio_lengths=LENGTHS)))
    assert "speech: 9 rows beyond their utterance's length cut" in notes(pack)


@pytest.mark.parametrize("lengths", [[3, 4, 9, 2], [3, -1, 2, 2], [3, 1.5, 2, 2], [None] * 4])
def test_lengths_that_cannot_be_are_one_line(capsys, tmp_path, rng, lengths):
    content = parts(rng, audio_lengths=lengths)
    assert "audio_lengths: utterance" in refused(capsys, tmp_path, *save(tmp_path, content))


ODD = [np.nan, np.inf, -np.inf, 1e300, -np.finfo("f8").max]


def archive(kind, tmp_path, array):
    """The same odd numbers through every format, as the one utterance `u0`'s speech."""
    rest = np.ones((2, 3))
    if kind == "mmsa":
        ids = ["u0", "u1", "u2"]
        both = {"audio": np.stack([array, rest, rest])}
        content = {
            s: part([i], [sc], audio=both["audio"][k : k + 1])
            for k, (s, i, sc) in enumerate(
                zip(("train", "valid", "test"), ids, (-1, 1, 1), strict=True)
            )
        }
        return save(tmp_path, content)
    os.makedirs(tmp_path / "f", exist_ok=True)
    for i, a in {"u0": array, "u1": rest, "u2": rest}.items():
        np.save(tmp_path / f"f/{i}.npy", a)
    pattern = ["--id-pattern", "(?P<session>u)(?P<speaker>.)"]
    if kind == "csv":
        write_csv(tmp_path / "u.csv", [["id", "label"], ["u0", "a"], ["u1", "b"], ["u2", "b"]])
        return ["csv", "--utterances", tmp_path / "u.csv", "--speech", tmp_path / "f", *pattern]
    if kind == "merbench":
        whole = {f"u{k}": {"emo": k % 2} for k in range(3)}
        np.savez(tmp_path / "l.npz", whole_corpus=whole)
        labels = tmp_path / "l.npz"
    else:
        table = ({"v": ["u0", "u1", "u2"]}, {"v": [0, 1, 1]}, {"v": "MFM"}, {"v": ["x"] * 3})
        table = tuple({k: list(v) for k, v in t.items()} for t in table)
        (tmp_path / "l.pkl").write_bytes(pickle.dumps((*table, {"v"}, set())))
        labels = tmp_path / "l.pkl"
    return [kind, "--labels", labels, "--speech", tmp_path / "f", "--classes", "a,b", *pattern]


FORMATS = ["mmsa", "csv", "merbench", "gcnet"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("value", ODD)
def test_what_float32_cannot_hold_is_0_and_counted_by_every_format(capsys, tmp_path, kind, value):
    array = np.array([[1, value, 2], [3, 4, 5.0]])
    pack = imported(capsys, tmp_path, *archive(kind, tmp_path, array))
    assert pack.sequence("speech", 0).tolist() == [[1, 0, 2], [3, 4, 5]]
    assert "speech: 1 numbers that float32 cannot hold count as 0" in notes(pack)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_utterance_without_a_finite_number_lacks_the_modality(capsys, tmp_path, kind):
    arguments = archive(kind, tmp_path, np.full((2, 3), np.nan))
    code, _, err = run(capsys, *arguments, "--out", tmp_path / "pack")
    assert code == 2 and "has no row in any modality" in err  # its only modality


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [">f8", "g", "i2", "O", ">f4", "?"])
def test_every_format_takes_numbers_of_any_dtype(capsys, tmp_path, kind, dtype):
    array = np.array([[1, 0, 1], [1, 1, 0]]).astype(dtype)
    pack = imported(capsys, tmp_path, *archive(kind, tmp_path, array))
    assert pack.sequence("speech", 0).tolist() == [[1, 0, 1], [1, 1, 0]]
    assert pack.features["speech"].dtype == np.float32


RAGGED = {
    "audio": lambda c: [np.ones((n, 5)) for n in range(1, 1 + len(c["id"]))],
    "audio, nested lists": lambda c: [np.ones((n, 5)).tolist() for n in range(1, 1 + len(c["id"]))],
    "audio, objects": lambda c: np.array([*(np.ones((n, 5)) for n in range(1, 1 + len(c["id"]))), None], object)[:-1],
}  # fmt: skip


@pytest.mark.parametrize("case", RAGGED)
def test_recordings_of_unequal_length_are_read(capsys, tmp_path, rng, case):
    content = parts(rng)
    for p in content.values():
        p["audio"] = RAGGED[case](p)
    pack = imported(capsys, tmp_path, *save(tmp_path, content))
    assert np.diff(pack.offsets["speech"]).tolist() == [1, 2, 1, 1]


BROKEN = {
    "ragged frames": ("audio", lambda p: [[[1, 2], [3]]] * len(p["id"])),
    "other width": ("audio", lambda p: [np.ones((2, 5 + k)) for k in range(len(p["id"]))]),
    "words": ("audio", lambda p: [["a"]] * len(p["id"])),
    "a number": ("audio", lambda p: 3),
    "nothing": ("audio", lambda p: None),
    "dicts": ("audio", lambda p: [{}] * len(p["id"])),
    "four axes": ("audio", lambda p: np.ones((len(p["id"]), 2, 2, 2))),
    "ragged labels": ("annotations", lambda p: [[1], [1, 2]][: len(p["id"])]),
    "labels of dicts": ("annotations", lambda p: [{}] * len(p["id"])),
    "ids of one number": ("id", lambda p: 3),
    "ragged lengths": ("audio_lengths", lambda p: [[1], [1, 2]][: len(p["id"])] * 2),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_archive_is_one_line(capsys, tmp_path, rng, case):
    key, change = BROKEN[case]
    content = parts(rng)
    for p in content.values():
        p[key] = change(p)
    line = refused(capsys, tmp_path, *save(tmp_path, content))
    assert "x.pkl" in line or "audio" in line


def test_unknown_parts_and_keys_are_counted(capsys, tmp_path, rng):
    content = parts(rng)
    content["train"]["glove"] = np.ones((2, 3))
    content["extra"] = content["train"]
    content["valid"]["vision"] = np.ones((1, 2, 3))  # of one part alone
    content["unlabelled"] = {"id": [*"abc"]}
    pack = imported(capsys, tmp_path, *save(tmp_path, {**content, "extra": {"id": ["q"]}}))
    said = notes(pack)
    assert "parts: 2 not read (extra of 1 utterances, unlabelled of 3 utterances)" in said
    assert "train.glove" in said and "val.vision" in said and "train.regression_labels" in said


@pytest.mark.parametrize("name", ["dev", "val", "validation"])
def test_the_validation_part_has_many_names(capsys, tmp_path, rng, name):
    content = parts(rng)
    content[name] = content.pop("valid")
    pack = imported(capsys, tmp_path, *save(tmp_path, content))
    assert pack.columns["split"].tolist() == ["train", "train", "val", "test"]


def test_two_validation_parts_are_refused(capsys, tmp_path, rng):
    content = parts(rng)
    content["dev"] = content["valid"]
    line = refused(capsys, tmp_path, *save(tmp_path, content))
    assert "has two parts for val, 'dev' the second" in line


def mult(rng):
    def of(v, n):
        return {
            "vision": rng.normal(size=(n, 6, 4)),
            "audio": rng.normal(size=(n, 6, 5)),
            "text": rng.normal(size=(n, 6, 8)),
            "labels": np.resize([-1.5, 2.0], (n, 1, 1)),
            "id": np.array([[f"{v}{k // 4}", str(k), str(k + 1)] for k in range(n)]),
        }

    return {"train": of("a", 8), "valid": of("b", 4), "test": of("c", 4)}


def test_the_advice_about_mults_pickles_works(capsys, tmp_path, rng):
    arguments = save(tmp_path, mult(rng))
    advice = "for classes of the score 'labels' give --polarity=has0 or non0"
    assert advice in refused(capsys, tmp_path, *arguments)
    advice = "labels: label -1.5 is no class index; for a score of sentiment give --polarity=has0"
    assert advice in refused(capsys, tmp_path, *arguments, "--label-key", "labels")
    pack = imported(capsys, tmp_path, *arguments, "--polarity", "has0")
    assert pack.provenance["labels"] == "labels" and set(pack.modalities) == {
        "text",
        "speech",
        "video",
    }
    assert pack.columns["id"][0] == "a0$_$0$_$1" and pack.columns["group"][0] == "a0"
    assert pack.columns["label"].tolist()[:2] == ["negative", "nonnegative"]


@pytest.mark.parametrize("keys, flags, advice, then", [
    ({"classification_labels": [0, 1, 0, 1]}, (), "give --label-key=classification_labels", ("--label-key=classification_labels", "--classes=a,b")),
    ({"emotion": ["x", "y", "x", "y"]}, (), "give --label-key=KEY", ("--label-key=emotion",)),
    ({"valence": [0.1, -1, 1, 2]}, ("--polarity=non0",), "give --label-key=KEY, the key of a score", ("--polarity=non0", "--label-key=valence")),
])  # fmt: skip
def test_the_advice_about_labels_works(capsys, tmp_path, rng, keys, flags, advice, then):
    content = parts(rng, **{k: np.array(v) for k, v in keys.items()})
    for p in content.values():
        del p["annotations"], p["regression_labels"]
    arguments = save(tmp_path, content)
    assert advice in refused(capsys, tmp_path, *arguments, *flags)
    imported(capsys, tmp_path, *arguments, *then)


def test_labels_of_several_numbers_are_one_line(capsys, tmp_path, rng):
    content = mult(rng)
    for p in content.values():
        p["labels"] = np.zeros((len(p["id"]), 4, 2))
    line = refused(capsys, tmp_path, *save(tmp_path, content), "--label-key", "labels")
    assert "labels are neither names nor one number each" in line


@pytest.mark.parametrize("labels, wanted", [
    (["a", None, "b", "nan"], ["a", "", "b", ""]),
    ([b"a", np.nan, b"b", ""], ["a", "", "b", ""]),
    (np.array(["a", "b", "a", ""]), ["a", "b", "a", ""]),
    ([0.0, np.nan, 1.0, -1], ["a", "", "b", ""]),
    ([np.int64(0), None, True, "nan"], ["a", "", "b", ""]),
])  # fmt: skip
def test_labels_that_are_no_strings(capsys, tmp_path, rng, labels, wanted):
    content = parts(rng)
    for name, b in {"train": slice(0, 2), "valid": slice(2, 3), "test": slice(3, 4)}.items():
        content[name]["annotations"] = labels[b]
    pack = imported(capsys, tmp_path, *save(tmp_path, content), "--classes", "a,b")
    assert pack.columns["label"].tolist() == wanted


@pytest.mark.parametrize("label", ["", "nan", "NaN"])
@pytest.mark.parametrize("others", [("0", "1"), ("0.0", "1.0"), ("a", "b")])
def test_csv_labels_that_are_missing_are_unlabelled(capsys, tmp_path, label, others):
    write_csv(
        tmp_path / "u.csv",
        [
            ["id", "session", "speaker", "label", "split"],
            ["u", "1", "1", label, "nan"],
            ["v", "2", "2", others[0], "test"],
            ["w", "2", "2", others[1], ""],
        ],
    )
    np.savez(tmp_path / "f.npz", u=np.ones(2), v=np.ones(2), w=np.ones(2))
    arguments = ["csv", "--utterances", tmp_path / "u.csv", "--text", tmp_path / "f.npz"]
    pack = imported(capsys, tmp_path, *arguments, "--classes", "a,b")
    assert pack.columns["label"].tolist() == ["", "a", "b"]
    assert pack.columns["split"].tolist() == ["", "test", ""]


def test_csv_scores_follow_the_advice(capsys, tmp_path):
    write_csv(
        tmp_path / "u.csv",
        [["id", "session", "speaker", "label"], ["u", "1", "1", "-0.5"], ["v", "2", "2", "0.7"]],
    )
    np.savez(tmp_path / "f.npz", u=np.ones(2), v=np.ones(2))
    arguments = ["csv", "--utterances", tmp_path / "u.csv", "--text", tmp_path / "f.npz"]
    assert "give --polarity=has0" in refused(capsys, tmp_path, *arguments, "--classes", "a,b")
    pack = imported(capsys, tmp_path, *arguments, "--polarity", "has0")
    assert pack.columns["label"].tolist() == ["negative", "nonnegative"]


def test_csv_counts_columns_arrays_and_files_that_are_not_read(capsys, tmp_path):
    write_csv(
        tmp_path / "u.csv",
        [
            ["id", "session", "speaker", "label", "mood"],
            ["u", "1", "1", "a", "x"],
            ["v", "2", "2", "b", "y"],
        ],
    )
    np.savez(tmp_path / "f.npz", s=np.ones((2, 1, 3)), other=np.ones(3))
    os.makedirs(tmp_path / "d/u")
    for name in ("v.npy", "z.npy", "notes.txt", "u/0.npy", "u/face.jpg"):
        (tmp_path / "d" / name).write_bytes(b"")
        if name.endswith("npy"):
            np.save(tmp_path / "d" / name, np.ones(4))
    pack = imported(
        capsys, tmp_path, "csv", "--utterances", tmp_path / "u.csv",
        "--speech", f"{tmp_path}/f.npz:s", "--video", tmp_path / "d",
    )  # fmt: skip
    said = notes(pack)
    assert "u.csv: columns: 1 not read (mood)" in said
    assert "f.npz: arrays: 1 not read (other)" in said
    assert "2 not read (notes.txt, u/face.jpg)" in said
    assert "without a label: 1 not read (z)" in said


def test_what_a_pack_says_on_the_command_line_it_keeps(capsys, tmp_path, rng):
    content = parts(rng)
    content["train"]["glove"] = np.ones((2, 3))
    code, shown, err = run(capsys, *save(tmp_path, content), "--out", tmp_path / "pack")
    kept = pack_lib.read(str(tmp_path / "pack")).provenance["changed"]
    assert code == 0 and err.splitlines()[-len(kept) :] == [f"note: {line}" for line in kept]
    assert "glove" in shown


ARCHIVES = {
    "no zip": lambda p: p.write_bytes(b"x" * 100),
    "flipped inside": lambda p: flip(p),
    "another compression": lambda p: rezip(p, zipfile.ZIP_LZMA, cut=True),
}


def flip(path):
    np.savez_compressed(path, u=np.random.default_rng(0).normal(size=(9, 9)), v=np.ones(2))
    content = bytearray(path.read_bytes())
    content[120:140] = bytes(20)
    path.write_bytes(content)


def rezip(path, compression, cut):
    with zipfile.ZipFile(path, "w", compression) as f:
        f.writestr("u.npy", b"\x93NUMPY\x01\x00 broken")


@pytest.mark.parametrize("case", ARCHIVES)
def test_errors_of_foreign_libraries_are_one_line(capsys, tmp_path, case):
    write_csv(tmp_path / "u.csv", [["id", "session", "speaker", "label"], ["u", "1", "1", "a"]])
    ARCHIVES[case](tmp_path / "f.npz")
    line = refused(
        capsys, tmp_path, "csv", "--utterances", tmp_path / "u.csv", "--text", tmp_path / "f.npz"
    )
    assert "f.npz" in line


@pytest.mark.parametrize(
    "name", ["a[v2]", "a*b", "a?b", "with space", "~", "a{b,c}", "$HOME", "%02d", "#1;&"]
)
def test_names_are_not_patterns(capsys, tmp_path, rng, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_csv(
        "u.csv", [["id", "session", "speaker", "label"], ["u", "1", "1", "a"], ["v", "2", "2", "b"]]
    )
    os.mkdir(f"f{name}")
    for i in "uv":
        np.save(f"f{name}/{i}.npy", np.ones((2, 3)))
    code, _, err = run(
        capsys,
        "csv",
        "--utterances",
        folder / "u.csv",
        "--text",
        folder / f"f{name}",
        "--out",
        f"pack{name}",
    )
    assert code == 0, err
    assert pack_lib.read(str(folder / f"pack{name}")).features["text"].shape == (4, 3)


def test_an_arbitrary_exception_is_one_line(capsys, tmp_path, monkeypatch):
    from cmarr_jax.data.importers import mmsa

    monkeypatch.setattr(mmsa, "read", lambda *a, **k: 1 / 0)
    code, shown, err = run(capsys, "mmsa", "--file", "x", "--out", tmp_path / "pack")
    assert code == 1 and shown == "" and err.count("\n") == 1 and "ZeroDivisionError" in err


def test_labels_of_no_utterance_are_one_line():
    from cmarr_jax.data.importers import assemble

    with pytest.raises(UserError, match="name no utterance"):
        assemble.write(assemble.Archive([], [], ("a",), {}, {}, {}), "x", name="x")


@pytest.mark.parametrize("label", [1e300, 10**400, np.inf, 20_000], ids="abcd")
def test_labels_beyond_every_index_are_one_line(capsys, tmp_path, rng, label):
    content = parts(rng)
    content["train"]["annotations"] = [0, label]
    content["valid"]["annotations"] = content["test"]["annotations"] = [1]
    line = refused(capsys, tmp_path, *save(tmp_path, content), "--classes", "a,b")
    assert "is no class index" in line


def test_formats_point_at_each_other_and_each_reads_what_it_is_pointed_at(capsys, tmp_path, rng):
    (tmp_path / "g.pkl").write_bytes(
        pickle.dumps(
            ({"v": ["Ses01F_impro01_F000"]}, {"v": [0]}, {"v": ["F"]}, {"v": ["x"]}, {"v"}, set())
        )
    )
    os.makedirs(tmp_path / "f")
    np.save(tmp_path / "f/Ses01F_impro01_F000.npy", np.ones((2, 3)))
    assert "read by the format gcnet" in refused(
        capsys, tmp_path, "mmsa", "--file", tmp_path / "g.pkl"
    )
    features = ["--text", tmp_path / "f", "--classes", "a"]
    imported(capsys, tmp_path, "gcnet", "--labels", tmp_path / "g.pkl", *features)
    arguments = save(tmp_path, parts(rng))
    line = refused(capsys, tmp_path, "gcnet", "--labels", arguments[-1], *features)
    assert "a dict of parts is read by the format mmsa" in line
    os.rename(tmp_path / "pack", tmp_path / "first")
    imported(capsys, tmp_path, *arguments)
