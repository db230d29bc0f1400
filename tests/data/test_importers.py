"""Every format as a miniature tree, imported by the real command, against what it must become."""

import csv
import os
import pickle
import re
import sys

import numpy as np
import pytest

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data.importers import __main__ as command
from cmarr_jax.data.importers import labels, naming
from cmarr_jax.errors import UserError

IDS = [
    "Ses01F_impro01_M003",
    "Ses01F_impro01_F000",
    "Ses01M_script02_2_F001",
    "Ses02M_impro03_M010",
]
SPEAKERS = ["Ses01M", "Ses01F", "Ses01F", "Ses02M"]
GROUPS = ["Ses01F_impro01", "Ses01F_impro01", "Ses01M_script02_2", "Ses02M_impro03"]
LABELS = [1, 0, 3, 0]
CLASSES = ("ang", "hap", "neu", "sad")
NAMES = ["hap", "ang", "sad", "ang"]


def run(capsys, *arguments):
    """Exit code, what a person sees on standard output, and on standard error."""
    try:
        code = command.main([str(a) for a in arguments])
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    return code, out, err


def imported(capsys, tmp_path, *arguments):
    out = tmp_path / "pack"
    code, shown, err = run(capsys, *arguments, "--out", out)
    assert code == 0, err
    assert "fingerprint" in shown
    return pack_lib.read(str(out))


def refused(capsys, tmp_path, *arguments):
    """The one line of a refusal; nothing may have been written."""
    before = sorted(os.listdir(tmp_path))
    code, shown, err = run(capsys, *arguments, "--out", tmp_path / "pack")
    assert code == 2 and shown == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before
    return err


def features(rng, dim, lengths):
    return {i: rng.normal(size=(n, dim)).astype("f4") for i, n in zip(IDS, lengths, strict=True)}


def assert_sequences(pack, modality, expected):
    for k, i in enumerate(pack.columns["id"].tolist()):
        np.testing.assert_array_equal(pack.sequence(modality, k), expected[i])


def write_h5(file, arrays):
    h5py = pytest.importorskip("h5py")
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with h5py.File(file, "w") as f:
        for name, array in arrays.items():
            f[name] = array


def write_target(folder, ids, one_hot=True):
    """Fold 1: the first two train, the third validates, the fourth tests."""
    os.makedirs(folder)
    for split, part in {"trn": slice(0, 2), "val": slice(2, 3), "tst": slice(3, 4)}.items():
        chosen = np.array(LABELS)[part]
        np.save(f"{folder}/{split}_label.npy", np.eye(4)[chosen] if one_hot else chosen)
        names = np.array([[i.encode()] for i in ids[part]]) if one_hot else np.array(ids[part])
        np.save(f"{folder}/{split}_int2name.npy", names)


@pytest.fixture
def mmin_tree(tmp_path, rng):
    """IEMOCAP as MMIN keeps it; `expected` is without padding and frames without a face."""
    speech, video, text = (
        features(rng, d, n) for d, n in [(5, [3, 1, 4, 2]), (3, [4] * 4), (2, [6] * 4)]
    )
    expected = {"speech": dict(speech), "video": dict(video), "text": dict(text)}
    for i in IDS:
        text[i][4:] = 0  # padded to six
        expected["text"][i] = text[i][:4]
    video[IDS[0]][1] = 0  # a frame without a face
    expected["video"][IDS[0]] = video[IDS[0]][[0, 2, 3]]
    video[IDS[1]][:] = 0  # no face at all
    expected["video"][IDS[1]] = np.zeros((0, 3))
    write_h5(f"{tmp_path}/f/A/comparE.h5", speech | {"Ses05F_never_labelled_F000": np.ones((1, 5))})
    write_h5(f"{tmp_path}/f/A/comparE_mean_std.h5", {"1": np.ones(5)})
    write_h5(f"{tmp_path}/f/V/denseface.h5", video)
    write_h5(f"{tmp_path}/f/L/bert_large.h5", text)
    write_target(f"{tmp_path}/t/1", IDS)
    return ["mmin", "--features", tmp_path / "f", "--target", tmp_path / "t"], expected


def test_mmin(capsys, tmp_path, mmin_tree):
    arguments, expected = mmin_tree
    pack = imported(capsys, tmp_path, *arguments, "--classes", ",".join(CLASSES), "--name", "mini")
    assert pack.name == "mini" and pack.class_names == CLASSES
    assert pack.columns["id"].tolist() == IDS and pack.columns["label"].tolist() == NAMES
    assert pack.columns["speaker"].tolist() == SPEAKERS
    assert pack.columns["session"].tolist() == ["1", "1", "1", "2"]
    assert pack.columns["group"].tolist() == GROUPS
    assert pack.columns["split"].tolist() == ["train", "train", "val", "test"]
    for modality, arrays in expected.items():
        assert_sequences(pack, modality, arrays)
    assert pack.provenance["features"]["speech"] == "comparE.h5"


def test_mmin_with_rows_of_zeros_kept(capsys, tmp_path, mmin_tree):
    arguments, _ = mmin_tree
    pack = imported(capsys, tmp_path, *arguments, "--classes", "a,b,c,d", "--keep-zero-rows")
    assert np.diff(pack.offsets["text"]).tolist() == [6, 6, 6, 6]
    assert np.diff(pack.offsets["video"]).tolist() == [4, 0, 4, 4]  # none at all is still absent


def test_mmin_groups_that_hold_feat(capsys, tmp_path, rng):
    h5py = pytest.importorskip("h5py")
    speech = features(rng, 5, [3, 1, 4, 2])
    os.makedirs(tmp_path / "f/A")
    with h5py.File(tmp_path / "f/A/raw.h5", "w") as f:
        for i, array in speech.items():
            f[f"{i}/feat"], f[f"{i}/start"] = array, np.zeros(len(array))
    write_target(f"{tmp_path}/t/1", IDS)
    arguments = ["mmin", "--features", tmp_path / "f", "--target", tmp_path / "t"]
    assert_sequences(
        imported(capsys, tmp_path, *arguments, "--classes", "a,b,c,d"), "speech", speech
    )


def test_mmin_older_rows_beside_the_labels(capsys, tmp_path, rng):
    """MSP-IMPROV as older forks keep it: integers, plain text, arrays a split; and GCNet's val,
    which is its test part again.
    """
    ids = [f"MSP-IMPROV-S0{k}A-{s}-S-FM01" for k, s in enumerate(["F01", "M01", "F12", "M12"])]
    write_target(f"{tmp_path}/t/2", ids, one_hot=False)
    speech = rng.normal(size=(4, 5, 3)).astype("f4")
    os.makedirs(tmp_path / "f/A/2")
    for split, part in {"trn": slice(0, 2), "val": slice(2, 3), "tst": slice(3, 4)}.items():
        np.save(tmp_path / f"f/A/2/{split}.npy", speech[part])
    arguments = ["mmin", "--features", tmp_path / "f", "--target", tmp_path / "t", "--cv", "2"]
    pack = imported(capsys, tmp_path, *arguments, "--classes", "a,b,c,d")
    assert pack.columns["speaker"].tolist() == ["F01", "M01", "F12", "M12"]
    assert pack.columns["session"].tolist() == ["1", "1", "12", "12"]
    assert_sequences(pack, "speech", dict(zip(ids, speech, strict=True)))
    for name in ("_label", "_int2name"):
        os.replace(tmp_path / f"t/2/tst{name}.npy", tmp_path / f"t/2/val{name}.npy")
        os.link(tmp_path / f"t/2/val{name}.npy", tmp_path / f"t/2/tst{name}.npy")
    os.rename(tmp_path / "pack", tmp_path / "first")
    pack = imported(capsys, tmp_path, *arguments, "--classes", "a,b,c,d")
    assert pack.columns["split"].tolist() == ["train", "train", "test"]


def edit_npy(file, change):
    np.save(file, change(np.load(file)))


MMIN_MISTAKES = {
    "wrong cv": (["--cv", "11"], None, "t/11: no such folder; .* holds 1: choose one with --cv"),
    "unnamed classes": ([], None, r"no names \(utterances a class: 0: 2, 1: 1, 2: 0, 3: 1\); .* --classes"),
    "too few names": (["--classes", "a,b"], None, "label 3 found, but --classes names 2: a,b"),
    "unknown file": (["--speech", "egemaps", "--classes", "a,b,c,d"], None, "f/A: holds comparE; choose one with --speech=NAME"),
    "id without features": (
        ["--classes", "a,b,c,d"],
        lambda p: edit_npy(p / "t/1/tst_int2name.npy", lambda a: np.array([[b"Ses03F_impro01_F000"]])),
        r"L/bert_large.h5: no text features of 'Ses03F_impro01_F000' \(1 of 4 ids lack them\); .*--allow-missing",
    ),
    "none of the ids": (
        ["--classes", "a,b,c,d"],
        lambda p: [edit_npy(p / f"t/1/{s}_int2name.npy", lambda a: np.array([[x[0].replace(b"Ses0", b"Ses8")] for x in a])) for s in ("trn", "val", "tst")],
        "has features of none of the 4 ids; wanted names such as 'Ses81F_impro01_M003', found such as 'Ses01F_impro01_F000'",
    ),
    "an id twice": (
        ["--classes", "a,b,c,d"],
        lambda p: edit_npy(p / "t/1/tst_int2name.npy", lambda a: np.array([[IDS[0].encode()]])),
        "'Ses01F_impro01_M003' is in two of its parts or twice in one",
    ),
    "labels and ids differ": (
        ["--classes", "a,b,c,d"],
        lambda p: edit_npy(p / "t/1/trn_int2name.npy", lambda a: a[:1]),
        "trn_int2name.npy: 1 ids, but .*trn_label.npy has 2 labels",
    ),
    "no one-hot rows": (
        ["--classes", "a,b,c,d"],
        lambda p: edit_npy(p / "t/1/trn_label.npy", lambda a: a * 0.5),
        "trn_label.npy: wanted class indices or one-hot rows",
    ),
    "no label file": (
        ["--classes", "a,b,c,d"],
        lambda p: os.remove(p / "t/1/val_label.npy"),
        "val_label.npy: No such file",
    ),
    "dims disagree": (
        ["--classes", "a,b,c,d"],
        lambda p: replace_h5(p / "f/L/bert_large.h5", IDS[2], np.ones((2, 9), "f4")),
        r"text of 'Ses01M_script02_2_F001' has shape \(2, 9\), wanted \(rows, 2\)",
    ),
    "no HDF5": (
        ["--classes", "a,b,c,d"],
        lambda p: (p / "f/L/bert_large.h5").write_text("x"),
        "bert_large.h5: no HDF5 file",
    ),
}  # fmt: skip


def test_a_missing_h5py_is_one_line(capsys, tmp_path, mmin_tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    line = refused(capsys, tmp_path, *mmin_tree[0], "--classes", "a,b,c,d")
    assert "needs h5py; pip install -r requirements-extract.txt" in line


def replace_h5(file, name, array):
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "a") as f:
        del f[name]
        f[name] = array


@pytest.mark.parametrize("case", MMIN_MISTAKES)
def test_a_mistake_in_mmin_files_is_one_line(capsys, tmp_path, mmin_tree, case):
    flags, damage, match = MMIN_MISTAKES[case]
    if damage:
        damage(tmp_path)
    line = refused(capsys, tmp_path, *mmin_tree[0], *flags)
    assert re.search(match, line), line


def mmsa_pickle(tmp_path, rng, *, unaligned=False, ids=("vA$_$1", "vA$_$2", "vB$_$1", "vC$_$7")):
    """Two train, one valid, one test; text padded to 4 by the mask, audio in front, vision behind."""
    content, expected = {}, {}
    scores = dict(zip(ids, [0.0, -1.2, 2.0, 0.4], strict=True))
    for name, part in {"train": ids[:2], "valid": ids[2:3], "test": ids[3:]}.items():
        n = len(part)
        text, audio, vision = (rng.normal(size=(n, 4, d)).astype("f4") for d in (6, 3, 2))
        mask = np.zeros((n, 3, 4), int)
        mask[:, 1, :3] = 1
        audio[:, 0] = 0
        vision[:, 2:] = 7 if unaligned else 0
        audio[0, 1, 1] = -np.inf
        for k, i in enumerate(part):
            a = audio[k, 1:].copy()
            a[~np.isfinite(a)] = 0
            expected[i] = {"text": text[k, :3], "speech": a, "video": vision[k, :2]}
        content[name] = {
            "id": list(part),
            "raw_text": [f"words of {i}" for i in part],
            "text": text,
            "text_bert": mask,
            "audio": audio,
            "vision": vision,
            "regression_labels": np.array([scores[i] for i in part]),
            "annotations": [
                ("Negative", "Neutral", "Positive")[1 + int(np.sign(scores[i]))] for i in part
            ],
        } | ({"audio_lengths": [4] * n, "vision_lengths": [2] * n} if unaligned else {})
    file = tmp_path / "mosi.pkl"
    file.write_bytes(pickle.dumps(content))
    return file, expected


@pytest.mark.parametrize("unaligned", [False, True])
def test_mmsa(capsys, tmp_path, rng, unaligned):
    file, expected = mmsa_pickle(tmp_path, rng, unaligned=unaligned)
    pack = imported(capsys, tmp_path, "mmsa", "--file", file)
    assert pack.columns["id"].tolist() == list(expected)
    assert pack.columns["group"].tolist() == ["vA", "vA", "vB", "vC"]
    assert pack.columns["speaker"].tolist() == ["vA", "vA", "vB", "vC"]
    assert pack.columns["split"].tolist() == ["train", "train", "val", "test"]
    assert pack.columns["session"].tolist() == ["train", "train", "val", "test"]
    assert pack.columns["text"][0] == "words of vA$_$1"
    assert pack.class_names == ("Negative", "Neutral", "Positive")
    assert pack.columns["label"].tolist() == ["Neutral", "Negative", "Positive", "Positive"]
    for modality in ("text", "speech", "video"):
        assert_sequences(pack, modality, {i: e[modality] for i, e in expected.items()})
    assert pack.provenance["non_finite_set_to_0"] == {"text": 0, "speech": 3, "video": 0}


def test_mmsa_polarity_and_iemocap_ids(capsys, tmp_path, rng):
    file, _ = mmsa_pickle(tmp_path, rng, ids=IDS)
    pack = imported(capsys, tmp_path, "mmsa", "--file", file, "--polarity", "non0")
    assert pack.class_names == ("negative", "positive")
    assert pack.columns["label"].tolist() == [
        "",
        "negative",
        "positive",
        "positive",
    ]  # zero is unlabelled
    assert pack.columns["speaker"].tolist() == SPEAKERS


class Touch:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_malicious_pickle_is_refused_by_every_format(capsys, tmp_path):
    target = tmp_path / "touched"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"train": [Touch(target)], "test": 1}))
    np.savez(tmp_path / "x.npz", whole_corpus=np.array({"a": Touch(target)}, object))
    os.makedirs(tmp_path / "f")
    np.save(tmp_path / "f/u0.npy", np.array([Touch(target)], object))
    (tmp_path / "u.csv").write_text("id,session,speaker,label\nu0,1,a,x\n")
    os.makedirs(tmp_path / "t/1")
    for name in ("trn_label", "trn_int2name"):
        np.save(tmp_path / f"t/1/{name}.npy", np.array([Touch(target)], object))
    for arguments in (
        ["mmsa", "--file", tmp_path / "x.pkl"],
        ["gcnet", "--labels", tmp_path / "x.pkl", "--text", tmp_path / "f"],
        ["merbench", "--labels", tmp_path / "x.npz", "--text", tmp_path / "f"],
        ["csv", "--utterances", tmp_path / "u.csv", "--text", tmp_path / "f"],
        ["mmin", "--features", tmp_path, "--target", tmp_path / "t"],
    ):
        assert ".system, which is not data" in refused(capsys, tmp_path, *arguments)
    assert not target.exists()


def gcnet_tree(tmp_path, rng, *, with_val=False):
    """Text as vectors, speech as sequences, faces as a folder a turn with both actors in it."""
    by_video = {g: [k for k in range(4) if GROUPS[k] == g] for g in sorted(set(GROUPS))}

    def table(values):
        return {g: [values[k] for k in rows] for g, rows in by_video.items()}

    letters = [s[-1] for s in SPEAKERS]
    parts = [{GROUPS[0]}, {GROUPS[3], GROUPS[2]}]
    if with_val:
        parts = [{GROUPS[0]}, {GROUPS[2]}, {GROUPS[3]}]
    sentences = [f"sentence  {k}" for k in range(4)]
    content = (table(IDS), table(LABELS), table(letters), table(sentences), *parts)
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps(content, 2))
    expected = {"text": {}, "speech": {}, "video": {}}
    for name in expected:
        os.makedirs(tmp_path / name)
    for k, i in enumerate(IDS):
        vector, sequence = rng.normal(size=6), rng.normal(size=(1, k + 1, 3)).astype("f4")
        np.save(tmp_path / f"text/{i}.npy", vector)
        np.save(tmp_path / f"speech/{i}.npy", sequence)
        os.makedirs(tmp_path / f"video/{i}")
        faces = {f"{n:06d}_{s}.npy": rng.normal(size=(1, 2)) for n in range(3) for s in "FM"}
        for file, face in faces.items() if k != 2 else ():
            np.save(tmp_path / f"video/{i}/{file}", face)
        expected["text"][i] = vector[None].astype("f4")
        expected["speech"][i] = sequence[0]
        own = [faces[f"{n:06d}_{letters[k]}.npy"] for n in range(3)] if k != 2 else []
        expected["video"][i] = np.array(own, "f4").reshape(-1, 2)
    folders = [a for m in expected for a in (f"--{m}", tmp_path / m)]
    return ["gcnet", "--labels", tmp_path / "labels.pkl", *folders], expected


@pytest.mark.parametrize("with_val", [False, True])
def test_gcnet(capsys, tmp_path, rng, with_val):
    arguments, expected = gcnet_tree(tmp_path, rng, with_val=with_val)
    pack = imported(capsys, tmp_path, *arguments, "--classes", ",".join(CLASSES))
    found = dict(zip(pack.columns["id"].tolist(), range(4), strict=True))
    assert sorted(found) == sorted(IDS)
    rows = [found[i] for i in IDS]
    assert pack.columns["label"][rows].tolist() == NAMES
    assert pack.columns["speaker"][rows].tolist() == SPEAKERS
    assert pack.columns["group"][rows].tolist() == GROUPS
    third = "val" if with_val else "test"
    assert pack.columns["split"][rows].tolist() == ["train", "train", third, "test"]
    assert pack.columns["text"][found[IDS[2]]] == "sentence 2"
    for modality, arrays in expected.items():
        assert_sequences(pack, modality, arrays)


def test_gcnet_mistakes_are_one_line(capsys, tmp_path, rng):
    arguments, _ = gcnet_tree(tmp_path, rng)
    assert "no names (utterances a class" in refused(capsys, tmp_path, *arguments)
    arguments += ["--classes", ",".join(CLASSES)]
    os.remove(tmp_path / f"speech/{IDS[3]}.npy")
    assert f"no speech features of '{IDS[3]}' (1 of 4" in refused(capsys, tmp_path, *arguments)
    pack = imported(capsys, tmp_path, *arguments, "--allow-missing")
    row = pack.columns["id"].tolist().index(IDS[3])
    assert len(pack.sequence("speech", row)) == 0 and len(pack.sequence("text", row)) == 1
    content = list(pickle.loads((tmp_path / "labels.pkl").read_bytes()))
    content[1] = dict(list(content[1].items())[:1])
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps(tuple(content)))
    arguments[arguments.index("--classes") + 1] = "a"
    code, _, err = run(capsys, *arguments, "--out", tmp_path / "other")
    assert code == 2 and "is in a part, but not in every dict" in err


def test_merbench(capsys, tmp_path, rng):
    text = {i: rng.normal(size=6).astype("f4") for i in IDS}
    os.makedirs(tmp_path / "text")
    for i, vector in text.items():
        np.save(tmp_path / f"text/{i}.npy", vector)
    whole = {i: {"emo": y, "val": -10} for i, y in zip(IDS, LABELS, strict=True)}
    np.savez_compressed(tmp_path / "label_4way.npz", whole_corpus=whole)
    arguments = ["merbench", "--labels", tmp_path / "label_4way.npz", "--text", tmp_path / "text"]
    pack = imported(capsys, tmp_path, *arguments, "--classes", ",".join(CLASSES))
    assert pack.columns["id"].tolist() == IDS and pack.columns["label"].tolist() == NAMES
    assert "split" not in pack.columns and pack.columns["group"].tolist() == GROUPS
    assert_sequences(pack, "text", {i: v[None] for i, v in text.items()})


def test_merbench_with_official_parts_and_scores(capsys, tmp_path, rng):
    ids = {"train": ["vid_1_0", "vid_1_1"], "val": ["vid_2_0"], "test": ["vid_3_0"]}
    score = iter([-1.0, 0.0, 2.0, -0.5])
    parts = {
        f"{s}_corpus": {i: {"emo": 0, "val": next(score)} for i in part} for s, part in ids.items()
    }
    np.savez(tmp_path / "label.npz", **parts)
    os.makedirs(tmp_path / "a")
    for part in ids.values():
        for i in part:
            np.save(tmp_path / f"a/{i}.npy", rng.normal(size=(2, 3)))
    arguments = ["merbench", "--labels", tmp_path / "label.npz", "--speech", tmp_path / "a"]
    pack = imported(capsys, tmp_path, *arguments, "--polarity", "has0")
    assert pack.columns["label"].tolist() == ["negative", "nonnegative", "nonnegative", "negative"]
    assert pack.columns["group"].tolist() == ["vid_1", "vid_1", "vid_2", "vid_3"]
    assert pack.columns["split"].tolist() == ["train", "train", "val", "test"]


def write_csv(file, rows):
    with open(file, "w", newline="") as f:
        csv.writer(f).writerows(rows)


def test_csv_with_every_kind_of_features(capsys, tmp_path, rng):
    rows = [["id", "label", "note"], ["a1x", "joy", "?"], ["a2x", "", "?"], ["b1y", "ire", "?"]]
    write_csv(tmp_path / "u.csv", rows)
    ids = ["a1x", "a2x", "b1y"]
    by_id = {i: rng.normal(size=(n, 3)).astype("f2") for n, i in enumerate(ids, start=1)}
    np.savez(tmp_path / "by_id.npz", **by_id)
    padded = rng.normal(size=(3, 4, 2)).astype("f4")
    np.savez(tmp_path / "rows.npz", s=padded, s_lengths=[4, 1, 2])
    vectors = rng.normal(size=(3, 5))
    np.save(tmp_path / "v.npy", vectors)
    pack = imported(
        capsys,
        tmp_path,
        *("csv", "--utterances", tmp_path / "u.csv", "--text", tmp_path / "by_id.npz"),
        *("--speech", f"{tmp_path}/rows.npz:s", "--video", tmp_path / "v.npy"),
        *("--id-pattern", r"^(?P<speaker>(?P<session>.).)"),
    )
    assert pack.class_names == ("ire", "joy")
    assert pack.columns["label"].tolist() == ["joy", "", "ire"]
    assert pack.columns["session"].tolist() == ["a", "a", "b"]
    assert pack.columns["speaker"].tolist() == ["a1", "a2", "b1"]
    assert "note" not in pack.columns and "group" not in pack.columns
    assert pack.features["text"].dtype == np.float16
    assert_sequences(pack, "text", by_id)
    lengths = zip(ids, [4, 1, 2], strict=True)
    assert_sequences(pack, "speech", {i: padded[k, :n] for k, (i, n) in enumerate(lengths)})
    assert_sequences(pack, "video", {i: vectors[k, None].astype("f4") for k, i in enumerate(ids)})


def test_csv_columns_win_over_ids(capsys, tmp_path):
    header = ["id", "session", "speaker", "label", "split", "start"]
    write_csv(tmp_path / "u.csv", [header, [IDS[0], "7", "me", "0", "test", "1.5"]])
    np.savez(tmp_path / "f.npz", **{IDS[0]: np.ones(3)})
    arguments = ["csv", "--utterances", tmp_path / "u.csv", "--text", tmp_path / "f.npz"]
    pack = imported(capsys, tmp_path, *arguments, "--classes", "calm")
    assert {c: v.tolist() for c, v in pack.columns.items()} == {
        "id": [IDS[0]],
        "session": ["7"],
        "speaker": ["me"],
        "label": ["calm"],
        "split": ["test"],
        "group": ["Ses01F_impro01"],
        "start": ["1.5"],
    }


CSV_MISTAKES = {
    "ids without a speaker": (["--text", "t.npz"], "id 'u0' is not named as in IEMOCAP or MSP-IMPROV, so its session is unknown; give --id-pattern"),
    "pattern without groups": (["--text", "t.npz", "--id-pattern", "u"], "wanted the named groups"),
    "pattern that misses": (["--text", "t.npz", "--id-pattern", "(?P<session>a)(?P<speaker>b)"], "does not match the id 'u0'"),
    "broken pattern": (["--text", "t.npz", "--id-pattern", "("], "no regular expression"),
    "no features": ([], "give one or more of --text, --speech and --video"),
    "no such features": (["--text", "none.npz"], "none.npz: no such file or folder"),
    "unknown kind": (["--text", "u.csv"], "u.csv: wanted an .h5 or .npz file"),
    "no such array": (["--text", "t.npz:x"], "has no array 'x'; found u0, u1"),
    "too few rows": (["--text", "short.npy"], "1 rows, wanted 2, one an utterance"),
    "unknown class": (["--text", "t.npz", "--classes", "x"], "label 'y' is none of --classes=x"),
    "text, no numbers": (["--text", "words.npz", "--id-pattern", "(?P<session>u)(?P<speaker>.)"], "dtype is <U1, wanted numbers"),
    "unknown flag": (["--txt", "t.npz"], "unrecognized arguments"),
}  # fmt: skip


@pytest.mark.parametrize("case", CSV_MISTAKES)
def test_a_mistake_in_plain_files_is_one_line(capsys, tmp_path, monkeypatch, case):
    flags, expected = CSV_MISTAKES[case]
    monkeypatch.chdir(tmp_path)
    write_csv("u.csv", [["id", "label"], ["u0", "x"], ["u1", "y"]])
    np.savez("t.npz", u0=np.ones(2), u1=np.ones(2))
    np.savez("words.npz", u0=np.array(["a"]), u1=np.array(["a"]))
    np.save("short.npy", np.ones((1, 2)))
    assert expected in refused(capsys, tmp_path, "csv", "--utterances", "u.csv", *flags)


def test_classes_are_named_by_the_counts_of_known_corpora():
    counts = {"hap": 1636, "sad": 1084, "neu": 1708, "ang": 1103}  # GCNet's order
    values = np.repeat(np.arange(4), list(counts.values()))
    names, classes = labels.to_classes(values, "x")
    assert classes == tuple(counts)
    assert {c: names.count(c) for c in classes} == counts


@pytest.mark.parametrize(
    "values, match",
    [([0.5, 1], "label 0.5 is no class index; .*--polarity"), ([[0, 1]], "one number each")],
)
def test_labels_that_are_no_classes(values, match):
    with pytest.raises(UserError, match=match):
        labels.to_classes(values, "x", classes=("a", "b"))


@pytest.mark.parametrize(
    "identifier, turn",
    [
        ("Ses05M_script01_1b_F012", ("5", "Ses05F", "Ses05M_script01_1b")),
        ("Ses01F_impro01_MXX0", None),
        ("MSP-IMPROV-S08N-M06-T-FM23", ("6", "M06", "6-S08N")),
        ("vid_1", None),
    ],
)
def test_ids(identifier, turn):
    assert naming.parse(identifier) == turn


def test_an_existing_pack_stays(capsys, tmp_path, mmin_tree):
    arguments = [*mmin_tree[0], "--classes", "a,b,c,d"]
    first = pack_lib.fingerprint(imported(capsys, tmp_path, *arguments))
    assert "exists already" in refused(capsys, tmp_path, *arguments)
    assert pack_lib.fingerprint(pack_lib.read(str(tmp_path / "pack"))) == first


@pytest.mark.parametrize("kind", ["", "mmin", "mmsa", "gcnet", "merbench", "csv"])
def test_help_teaches(capsys, kind):
    code, shown, _ = run(capsys, *([kind] if kind else []), "--help")
    assert code == 0
    wanted = [
        "--out",
        "PACK",
        "Source" if kind not in ("", "csv") else "train.py" if not kind else "KEY",
    ]
    assert all(word in shown for word in wanted)
