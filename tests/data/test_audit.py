"""The audit finds every leak that is put in, whoever made the folds, and nothing where none is."""

import json

import numpy as np
import pytest

from cmarr_jax.data import __main__ as command
from cmarr_jax.data import audit, duplicates, pipeline, protocol
from cmarr_jax.errors import UserError
from tests.conftest import write_pack


@pytest.fixture(scope="module")
def corpus(tiny_pack):
    return pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)


@pytest.fixture(scope="module")
def folds(corpus):
    return protocol.make_folds(corpus.columns, corpus.labels)


def with_features(corpus, change):
    features = {m: x.copy() for m, x in corpus.features.items()}
    change(features)
    return corpus._replace(features=features)


def duplicate(i, j, modalities=("text", "speech", "video")):
    def change(features):
        for m in modalities:
            features[m][j] = features[m][i]

    return change


@pytest.mark.parametrize("scheme", ["session", "speaker"])
def test_honest_folds_have_no_failure(corpus, scheme):
    folds = protocol.make_folds(corpus.columns, corpus.labels, scheme=scheme)
    found = audit.audit(corpus, folds, scheme=scheme)
    assert found["failures"] == [] and found["warnings"] == []
    for fold, facts in zip(folds, found["folds"], strict=True):
        for part in ("train", "val", "test"):
            rows = getattr(fold, part)
            assert facts["parts"][part]["utterances"] == len(rows)
            counts = list(facts["parts"][part]["classes"].values())
            assert counts == [int((corpus.labels[rows] == k).sum()) for k in range(3)]
        lacks = [int((~corpus.present[fold.train, m]).sum()) for m in range(3)]
        used = list(facts["normalised_by"]["utterances"].values())
        assert used == [len(fold.train) - n for n in lacks]
    audit.check(json.loads(json.dumps(found)))
    assert audit.render(found).endswith("no leak found")


def moved(fold, part, rows):
    """`rows` are put into `part` as well."""
    return fold._replace(**{part: np.concatenate([getattr(fold, part), rows])})


LEAKS = {  # of the first fold, which tests session 1
    "an utterance on both sides": (lambda f: moved(f, "train", f.test[:1]), "1 utterances are in the train and the test part"),
    "an utterance that validates and is tested": (lambda f: moved(f, "val", f.test[:2]), "2 utterances are in the val and the test part"),
    "an utterance that trains and validates": (lambda f: moved(f, "val", f.train[:1]), "1 utterances are in the train and the val part"),
    "a speaker on both sides": (lambda f: f._replace(test=f.test[1:], train=np.append(f.train, f.test[0])), "speaker '1F' in the train and the test part"),
    "a session on both sides": (lambda f: f._replace(test=f.test[1:], val=np.append(f.val, f.test[0])), "session '1' in the val and the test part"),
    "a dialogue on both sides": (lambda f: f._replace(test=f.test[1:], train=np.append(f.train, f.test[0])), "dialogue '1_0' in the train and the test part"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEAKS)
def test_a_fold_that_leaks_fails(corpus, folds, case):
    leak, wanted = LEAKS[case]
    found = audit.audit(corpus, [leak(folds[0]), *folds[1:]], scheme="session")
    assert any(wanted in line for line in found["failures"]), found["failures"]
    assert all(line.startswith("fold 1 (session 1): ") for line in found["failures"])
    with pytest.raises(UserError, match="the audit of tiny found leaks: fold 1"):
        audit.check(found)


def test_one_recording_under_two_ids_fails(corpus, folds):
    """Utterances 1 and 59 lie in sessions 1 and 3."""
    twice = with_features(corpus, duplicate(1, 59))
    found = audit.audit(twice, folds, scheme="session")
    assert len(found["failures"]) == 2  # where session 1 is tested, and where session 3 is
    assert "u001 = u059" in found["failures"][0]
    without_text = with_features(corpus, duplicate(1, 59, ("speech", "video")))
    assert not audit.audit(without_text, folds, scheme="session")["failures"]


def test_the_same_words_are_counted_and_no_leak(corpus, folds):
    text = np.array([f"number {i} says something" for i in range(60)])
    text[[1, 59]] = ["Yeah.", "yeah"]
    text[[2, 40]] = ["This is not, what I said!", "this is not what i said"]
    same = with_features(corpus, duplicate(1, 59, ("text",)))
    same = same._replace(columns=corpus.columns | {"text": text})
    found = audit.audit(same, folds, scheme="session")
    assert found["failures"] == []
    first = found["folds"][0]
    learned = set(folds[0].train.tolist())
    assert first["text"]["utterances"] == len({59, 40} & learned)
    assert first["text"]["long"] == len({40} & learned)
    near = [p for fold in found["folds"] for p in fold["near"]["text"]["examples"]]
    assert ["u001", "u059"] in near


def test_nearly_the_same_recording_is_a_warning(corpus, folds):
    def change(features):
        duplicate(1, 59)(features)
        for m in features:
            features[m][59] *= 1.001

    found = audit.audit(with_features(corpus, change), folds, scheme="session")
    assert found["failures"] == []
    assert sum("1 pairs across training and test nearly the same" in x for x in found["warnings"])


def test_near_pairs_equal_the_double_loop(rng):
    points = rng.normal(size=(300, 6))
    points[rng.integers(300, size=60)] = points[rng.integers(300, size=60)]
    points = (points + 0.005 * rng.normal(size=points.shape)).astype(np.float32)
    z = (points - points.mean(0)) / points.std(0)
    want = {
        (i, j)
        for i in range(300)
        for j in range(i + 1, 300)
        if np.sqrt(np.mean((z[i] - z[j]) ** 2)) <= 0.01
    }
    found = duplicates._near_pairs(points, np.arange(1, 301))
    assert set(found) == want and 10 < len(want) < 200


def test_filler_is_told_from_recordings(corpus, folds):
    def change(features):
        features["speech"][10:30] = 0.25  # imputed by a mean, say
        features["text"][10:30] = features["text"][10]
        features["video"][10:30] = 0

    found = audit.audit(with_features(corpus, change), folds, scheme="session")
    assert found["failures"] == []
    assert any(
        x.startswith("speech: 20 utterances have features of zeros") for x in found["warnings"]
    )


def test_a_pack_normalised_over_all_utterances_is_a_warning(corpus, folds):
    def change(features):
        x = features["speech"].astype(np.float64)
        flat = x.mean(axis=1)
        features["speech"][:] = (x - flat.mean(0)) / flat.std(0)

    warnings = audit.audit(with_features(corpus, change), folds, scheme="session")["warnings"]
    assert any(x.startswith("speech: mean 0 and deviation 1 over all") for x in warnings)


def test_selection_on_test_and_lacking_classes_are_warnings(corpus, folds):
    chosen = [fold._replace(val=fold.test) for fold in folds]
    found = audit.audit(corpus, chosen, scheme="session", select_on_test=True)
    assert found["failures"] == [] and "SELECTED ON TEST" in found["warnings"][0]
    first = folds[0]._replace(test=folds[0].test[corpus.labels[folds[0].test] != 1])
    warnings = audit.audit(corpus, [first], scheme="session")["warnings"]
    assert any("class 'b' is learned but not in the test part" in x for x in warnings)


def test_the_command_prints_writes_and_fails(tmp_path, capsys):
    path = write_pack(tmp_path / "pack").path
    out = str(tmp_path / "audit.json")
    assert command.main(["audit", path, "--out", out]) == 0
    assert "fold 3 (session 3)" in capsys.readouterr().out
    with open(out) as f:
        assert json.load(f)["failures"] == []
    for m in ("text", "speech", "video"):  # utterance 59 becomes utterance 1
        offsets = np.load(f"{path}/{m}.offsets.npy")
        features = np.load(f"{path}/{m}.npy")
        own = features[offsets[1] : offsets[2]]
        np.save(f"{path}/{m}.npy", np.concatenate([features[: offsets[59]], own]))
        offsets[60] = offsets[59] + len(own)
        np.save(f"{path}/{m}.offsets.npy", offsets)
    assert command.main(["audit", path]) == 2
    captured = capsys.readouterr()
    assert "LEAK     fold 1 (session 1): 1 recordings are in the test part" in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith("error: the audit of tiny found leaks") and "u001 = u059" in line
    with pytest.raises(SystemExit) as stop:
        command.main(["audit", path, "--scheme=dialogue"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_it_says_which_scheme_and_who_chose_it(corpus, folds):
    found = audit.audit(corpus, folds, scheme="session", chosen=True)
    assert (found["scheme"], found["chosen_by"]) == ("session", "auto")
    assert found["also_admits"] == ["speaker"]
    said = "protocol.scheme=session (auto; the pack also admits speaker)"
    assert audit.scheme_text(found) == said and said in audit.render(found)
    by_hand = audit.audit(corpus, folds, scheme="session")
    assert audit.scheme_text(by_hand) == "protocol.scheme=session (the pack also admits speaker)"


def test_sessions_named_like_parts_are_a_warning_of_the_official_split(corpus):
    session = np.array(["train", "val", "test"])[np.arange(60) * 3 // 60]
    parts = corpus._replace(columns=corpus.columns | {"session": session, "split": session})
    (fold,) = protocol.make_folds(parts.columns, parts.labels, scheme="auto")
    found = audit.audit(parts, [fold], scheme="split", chosen=True)
    assert found["failures"] == [] and found["also_admits"] == []
    assert any("named test, train, val, as parts of an official" in x for x in found["warnings"])


def test_majority_is_the_training_parts_largest_class(corpus, folds):
    """Which may be another one than the test part's: nobody knows that before the test."""
    first = folds[0]
    rows = first.test
    largest = np.bincount(corpus.labels[first.train]).argmax()
    other = (largest + 1) % 3
    few = first._replace(test=np.concatenate([rows[corpus.labels[rows] == other], rows[:1]]))
    found = audit.audit(corpus, [few], scheme="session")
    share = np.mean(corpus.labels[few.test] == largest)
    np.testing.assert_allclose(found["folds"][0]["baseline"]["war"], share)
    assert share < 0.5
    assert "majority (always the training part's largest class): WAR" in audit.render(found)
