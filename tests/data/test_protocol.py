import numpy as np
import pytest

from cmarr_jax.data import protocol
from cmarr_jax.errors import UserError


def corpus(num=240, sessions=5, classes=4):
    session = np.arange(num) * sessions // num
    return {
        "session": np.array([f"{s + 1}" for s in session]),
        "speaker": np.array([f"{s + 1}{'FM'[i % 2]}" for i, s in enumerate(session)]),
        "group": np.array([f"{s}-{i // 6}" for i, s in enumerate(session)]),
    }, np.arange(num) * 7 % classes


@pytest.mark.parametrize("validation", ["random", "rotate"])
def test_session_folds_share_no_session_speaker_or_utterance(validation):
    columns, labels = corpus()
    folds = protocol.make_folds(columns, labels, validation=validation)
    assert [f.number for f in folds] == [1, 2, 3, 4, 5]
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(240))
    for fold in folds:
        learned = np.concatenate([fold.train, fold.val])
        for column in ("session", "speaker"):
            assert not set(columns[column][learned]) & set(columns[column][fold.test])
        assert not set(columns["group"][fold.train]) & set(columns["group"][fold.val])
        assert len(set(learned) | set(fold.test)) == 240


def test_random_validation_has_its_share_of_each_class_and_does_not_move():
    columns, labels = corpus(num=1000)
    folds = protocol.make_folds(columns, labels, val_fraction=0.1)
    for fold, again in zip(folds, protocol.make_folds(columns, labels), strict=True):
        np.testing.assert_allclose(len(fold.val), 80, atol=12)
        counts = np.bincount(labels[fold.val], minlength=4)
        assert counts.min() > 12
        np.testing.assert_array_equal(fold.val, again.val)


def test_speaker_folds_validate_on_the_other_speaker_of_the_session():
    columns, labels = corpus()
    folds = protocol.make_folds(columns, labels, scheme="speaker")
    assert len(folds) == 10
    for fold in folds:
        assert len(set(columns["speaker"][fold.test])) == 1
        assert set(columns["session"][fold.val]) == set(columns["session"][fold.test])
        assert not set(columns["session"][fold.train]) & set(columns["session"][fold.test])


@pytest.mark.parametrize("has_val", [True, False])
def test_official_split(has_val):
    columns, labels = corpus()
    split = np.where(columns["session"] == "5", "test", "train")
    if has_val:
        split[columns["session"] == "4"] = "val"
    (fold,) = protocol.make_folds(columns | {"split": split}, labels, scheme="split")
    assert (split[fold.test] == "test").all() and (split[fold.train] == "train").all()
    assert (split[fold.val] == ("val" if has_val else "train")).all()
    assert not set(columns["group"][fold.train]) & set(columns["group"][fold.val])


def test_unlabelled_utterances_take_no_part():
    columns, labels = corpus()
    labels = np.where(np.arange(240) % 10 == 0, -1, labels)
    for fold in protocol.make_folds(columns, labels):
        for part in (fold.train, fold.val, fold.test):
            assert (labels[part] >= 0).all()


def test_selection_on_test_only_on_request():
    columns, labels = corpus()
    for fold in protocol.make_folds(columns, labels, select_on_test=True):
        np.testing.assert_array_equal(fold.val, fold.test)


def test_a_speaker_in_two_sessions_is_refused():
    columns, labels = corpus()
    columns["speaker"][0] = columns["speaker"][-1]
    with pytest.raises(UserError, match="speaker '5M' is in the test part"):
        protocol.make_folds(columns, labels)


def test_without_validation_all_other_sessions_are_learned_from():
    columns, labels = corpus()
    for fold in protocol.make_folds(columns, labels, validation="none"):
        assert len(fold.val) == 0 and len(fold.train) + len(fold.test) == (labels >= 0).sum()
        assert not set(columns["session"][fold.train]) & set(columns["session"][fold.test])


@pytest.mark.parametrize(
    "change, match",
    [
        ({"scheme": "dialogue"}, "scheme=dialogue"),
        ({"scheme": "split"}, "no split column"),
        ({"validation": "test"}, "validation=test"),
        ({"validation": "none", "scheme": "speaker"}, "validation=none: wanted with"),
        ({"validation": "none", "select_on_test": True}, "without select_on_test"),
    ],
)
def test_an_impossible_protocol_is_named(change, match):
    columns, labels = corpus()
    with pytest.raises(UserError, match=match):
        protocol.make_folds(columns, labels, **change)


def test_a_class_tested_but_never_trained_on_is_refused():
    columns, labels = corpus()
    labels = np.where(columns["session"] == "2", 3, labels % 3)
    with pytest.raises(UserError, match="class index 3"):
        protocol.make_folds(columns, labels)


@pytest.mark.parametrize(
    "modalities, want",
    [
        (("text", "speech", "video"), ["t", "s", "v", "vt", "sv", "st", "svt"]),
        (("video", "speech", "text"), ["t", "s", "v", "vt", "sv", "st", "svt"]),
        (("text", "speech"), ["t", "s", "st"]),
        (("text",), ["t"]),
    ],
)
def test_conditions_are_named_and_ordered_as_in_the_paper(modalities, want):
    conditions = protocol.make_conditions(modalities)
    assert [c.name for c in conditions] == want
    for c in conditions:
        assert {m[0] for m, a in zip(modalities, c.available, strict=True) if a} == set(c.name)


def test_patterns():
    conditions = protocol.make_conditions(("text", "speech", "video"))
    assert len(protocol.make_patterns(conditions, "all")) == 7
    assert len(protocol.make_patterns(conditions, "missing")) == 6
    assert protocol.make_patterns(conditions, "full").tolist() == [[True] * 3]
    assert protocol.make_patterns(conditions, "t,sv").tolist() == [
        [True, False, False],
        [False, True, True],
    ]
    with pytest.raises(UserError, match="patterns=t,x"):
        protocol.make_patterns(conditions, "t,x")


def test_the_control_shuffles_what_a_fold_learns_and_nothing_of_its_test_part():
    columns, labels = corpus()
    first, second = protocol.make_folds(columns, labels)[:2]
    learned = np.concatenate([first.train, first.val])
    shuffled = protocol.shuffle_labels(labels, first, seed=0)
    np.testing.assert_array_equal(shuffled[first.test], labels[first.test])
    assert (shuffled[learned] != labels[learned]).mean() > 0.4
    assert sorted(shuffled[learned]) == sorted(labels[learned])
    for fold, seed in ((first, 1), (second, 0)):
        assert (protocol.shuffle_labels(labels, fold, seed) != shuffled).any()


def named(columns, **parts):
    """Sessions 1 to 3 learn, 4 validates, 5 tests, by the words of `parts`."""
    words = {"1": "train", "2": "train", "3": "train", "4": "val", "5": "test"} | parts
    return np.array([words[s] for s in columns["session"]])


def test_auto_takes_the_split_then_the_session_then_the_speaker():
    columns, labels = corpus()
    assert protocol.admitted(columns, labels) == ["session", "speaker"]
    assert protocol.choose_scheme(columns, labels) == "session"
    split = columns | {"split": named(columns)}
    assert protocol.admitted(split, labels) == ["split", "session", "speaker"]
    assert protocol.choose_scheme(split, labels) == "split"
    empty = columns | {"split": np.full(len(labels), "")}
    assert protocol.choose_scheme(empty, labels) == "session"
    columns["speaker"] = np.array([f"{i % 4}" for i in range(len(labels))])  # in every session
    assert protocol.admitted(columns, labels) == ["speaker"]
    assert protocol.choose_scheme(columns, labels) == "speaker"
    alone = columns | {"session": np.full(len(labels), "1")}
    assert protocol.admitted(alone, labels) == []
    assert protocol.choose_scheme(alone, labels) == "session"  # whose error says what is wanted


def test_auto_gives_the_folds_of_the_scheme_that_it_chooses():
    columns, labels = corpus()
    for auto, plain in zip(
        protocol.make_folds(columns, labels, scheme="auto"),
        protocol.make_folds(columns, labels, scheme="session"),
        strict=True,
    ):
        for part in ("train", "val", "test"):
            np.testing.assert_array_equal(getattr(auto, part), getattr(plain, part))


@pytest.mark.parametrize("scheme", ["session", "speaker", "auto"])
@pytest.mark.parametrize("word", ["test", "Train", "val", "valid", "dev", "validation"])
def test_sessions_named_like_parts_of_a_split_are_refused(scheme, word):
    columns, labels = corpus()
    columns["session"] = np.where(columns["session"] == "5", word, columns["session"])
    with pytest.raises(UserError, match=f"sessions are named {word}, .*into a column split"):
        protocol.make_folds(columns, labels, scheme=scheme)
    columns["split"] = np.where(columns["session"] == word, "test", "train")
    assert len(protocol.make_folds(columns, labels, scheme="split")) == 1
    if scheme != "auto":
        with pytest.raises(UserError, match=r"; use protocol\.scheme=split"):
            protocol.make_folds(columns, labels, scheme=scheme)


@pytest.mark.parametrize("word", ["dev", "valid", "validation"])
def test_other_words_for_val_are_understood(word):
    columns, labels = corpus()
    (fold,) = protocol.make_folds(
        columns | {"split": named(columns, **{"4": word})}, labels, scheme="split"
    )
    assert (columns["session"][fold.val] == "4").all() and len(fold.val) == 48


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_validation_by_speaker_shares_no_speaker_and_no_dialogue(fraction):
    """Speakers without dialogues one by one; those whom dialogues join, together."""
    columns, labels = corpus(num=480)
    alone = {name: x for name, x in columns.items() if name != "group"}
    for given, circles in ((alone, 8), (columns, 4)):
        for fold in protocol.make_folds(given, labels, validation="speaker", val_fraction=fraction):
            train, val = (set(given["speaker"][rows]) for rows in (fold.train, fold.val))
            assert train and val and not train & val
            assert len(fold.train) + len(fold.val) + len(fold.test) == 480
            if given is columns:
                assert not set(given["group"][fold.train]) & set(given["group"][fold.val])
            share = len(fold.val) / (len(fold.val) + len(fold.train))
            assert abs(share - max(fraction, 1 / circles)) <= 1 / circles
    again = protocol.make_folds(columns, labels, validation="speaker", val_fraction=fraction)
    np.testing.assert_array_equal(again[-1].val, fold.val)


def test_validation_by_speaker_of_an_official_split():
    columns, labels = corpus()
    columns["split"] = np.where(columns["session"] == "5", "test", "train")
    (fold,) = protocol.make_folds(columns, labels, scheme="split", validation="speaker")
    assert not set(columns["speaker"][fold.train]) & set(columns["speaker"][fold.val])
    half = columns["session"] == "1"
    columns["split"][half & (np.arange(240) % 12 < 6)] = "val"
    with pytest.raises(UserError, match="speaker '1F' is in its training and its validation part"):
        protocol.make_folds(columns, labels, scheme="split", validation="speaker")
    assert protocol.make_folds(columns, labels, scheme="split")  # on request alone


def test_one_circle_of_speakers_is_no_validation_part():
    columns, labels = corpus(sessions=2)
    with pytest.raises(UserError, match="its val part is empty"):
        protocol.make_folds(columns, labels, validation="speaker")
