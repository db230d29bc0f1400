import os

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import ravdess
from tests.extract import releases


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return releases.ravdess(str(tmp_path_factory.mktemp("ravdess")))


def test_names_say_everything(root):
    found = ravdess.scan(root)
    turns = {u.id: u for u in found.utterances}
    assert {i: (u.label, u.speaker, u.session) for i, u in turns.items()} == {
        "01-01-01-01-01-01": ("neutral", "Actor_01", "1"),
        "01-02-01-02-01-04": ("calm", "Actor_04", "1"),
        "01-05-02-01-02-05": ("angry", "Actor_05", "2"),
        "01-07-01-01-01-12": ("disgust", "Actor_12", "3"),
        "01-08-02-02-02-24": ("surprised", "Actor_24", "6"),
    }
    assert turns["01-01-01-01-01-01"].text == "Kids are talking by the door."
    assert turns["01-02-01-02-01-04"].text == "Dogs are sitting by the door."
    assert found.modalities == "s" and len(found.class_names) == 8
    assert [u.group for u in turns.values()] == [""] * 5


def test_the_three_files_of_a_recording_are_one_utterance(root):
    turns = {u.id: u for u in ravdess.scan(root).utterances}

    def files(i):
        u = turns[i]
        return tuple(p and os.path.relpath(p, root) for p in (u.wav, u.video))

    of_first = "Video_Speech_Actor_01/Actor_01/01-01-01-01-01-01-01.mp4"
    assert files("01-01-01-01-01-01") == ("Actor_01/03-01-01-01-01-01-01.wav", of_first)
    assert files("01-05-02-01-02-05") == ("Actor_05/03-01-05-02-01-02-05.wav", None)
    both = "Video_Speech_Actor_24/Actor_24/01-01-08-02-02-02-24.mp4"
    assert files("01-08-02-02-02-24") == (both, both)  # its sound lies in the video alone
    silent = "Video_Speech_Actor_12/Actor_12/02-01-07-01-01-01-12.mp4"
    assert files("01-07-01-01-01-12") == (None, silent)
    assert files("01-02-01-02-01-04")[0] == "Actor_04/03-01-02-01-02-01-04.wav"


def test_what_is_odd_is_named(root, monkeypatch):
    warnings = ravdess.scan(root).warnings
    assert warnings[:3] == [
        "1 files have a name twice; the first path counts",
        "1 songs are not read, speech alone is (02-03-01-01-01-02)",
        "1 recordings are not named as RAVDESS', not read (notes.wav)",
    ]
    assert warnings[3].endswith("192 disgust, 192 surprised = 1440")
    here = dict.fromkeys(ravdess.KNOWN_COUNTS, 0)
    here |= dict.fromkeys(("neutral", "calm", "angry", "disgust", "surprised"), 1)
    monkeypatch.setattr(ravdess, "KNOWN_COUNTS", here)
    assert len(ravdess.scan(root).warnings) == 3


def test_sessions_are_two_women_and_two_men():
    """Even actors are women."""
    sexes = {}
    for actor in range(1, 25):
        u = ravdess._utterance(f"01-01-01-01-01-{actor:02}", {})
        sexes.setdefault(u.session, []).append(actor % 2)
    assert list(sexes) == list("123456") and all(sum(s) == 2 == len(s) / 2 for s in sexes.values())


@pytest.mark.parametrize("name", ["03-01-09-01-01-01-01.wav", "03-01-01-01-01-01-25.wav", "a.wav"])
def test_another_folder_is_refused(tmp_path, name):
    releases.write_wav(f"{tmp_path}/{name}", 0.1)
    with pytest.raises(UserError, match=r"no file such as Actor_01/.* \(0 songs\)"):
        ravdess.scan(str(tmp_path))
