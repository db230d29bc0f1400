import os

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import cremad
from tests.extract import releases


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return releases.cremad(str(tmp_path_factory.mktemp("cremad")))


def test_names_say_everything(root):
    found = cremad.scan(root)
    clips = {u.id: u for u in found.utterances}
    assert list(clips) == [c if c != "1040_ITH_SAD_X" else f"{c}X" for c in releases.CREMAD_CLIPS]
    first = clips["1001_DFA_ANG_XX"]
    assert (first.speaker, first.label, first.session) == ("1001", "ang", "1")
    assert first.text == "Don't forget a jacket." and first.group == ""
    assert os.path.relpath(first.wav, root) == "AudioWAV/1001_DFA_ANG_XX.wav"
    assert os.path.relpath(first.video, root) == "VideoFlash/1001_DFA_ANG_XX.flv"
    misnamed = clips["1040_ITH_SAD_XX"]
    assert misnamed.wav.endswith("/1040_ITH_SAD_X.wav")
    assert misnamed.video.endswith("/1040_ITH_SAD_XX.flv")
    assert found.class_names == ("ang", "dis", "fea", "hap", "neu", "sad")
    assert found.modalities == "s"  # the same twelve sentences in every emotion
    assert len(cremad._SENTENCES) == 12


def test_sessions_are_fifths_of_the_actors():
    sizes = {}
    for actor in range(1001, 1092):
        u = cremad._utterance(f"{actor}_DFA_ANG_XX", {})
        sizes[u.session] = sizes.get(u.session, 0) + 1
    assert sizes == {"1": 19, "2": 18, "3": 18, "4": 18, "5": 18}


def test_what_is_odd_is_named(root, monkeypatch):
    assert cremad.scan(root).warnings == [
        "1 recordings are not named as clips, not read (README.wav)",
        "found 1 ang, 1 dis, 1 fea, 1 hap, 1 neu, 2 sad = 7; the full release has 1271 ang, 1271 "
        "dis, 1271 fea, 1271 hap, 1087 neu, 1271 sad = 7442",
    ]
    here = dict.fromkeys(cremad.KNOWN_COUNTS, 1) | {"sad": 2}
    monkeypatch.setattr(cremad, "KNOWN_COUNTS", here)
    assert len(cremad.scan(root).warnings) == 1


def test_pointers_instead_of_recordings(tmp_path):
    """What a clone without Git LFS, or the archive of the page, holds."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 63660\n"
    for clip in ("1001_DFA_ANG_XX", "1002_DFA_ANG_XX"):
        releases.write(f"{tmp_path}/AudioWAV/{clip}.wav", pointer)
    with pytest.raises(
        UserError, match=r"^--root=.*: 2 files are pointers of Git LFS .*git lfs pull"
    ):
        cremad.scan(str(tmp_path))
    releases.write_wav(f"{tmp_path}/AudioWAV/1002_DFA_ANG_XX.wav", 0.1)
    assert cremad.scan(str(tmp_path)).warnings[0] == (
        "1 files are pointers of Git LFS and hold no recording; run `git lfs pull` in the release "
        "(1001_DFA_ANG_XX.wav)"
    )


def test_another_folder_is_refused(tmp_path):
    releases.write_wav(f"{tmp_path}/1001_XXX_ANG_XX.wav", 0.1)  # no such sentence
    with pytest.raises(UserError, match="no file such as AudioWAV/"):
        cremad.scan(str(tmp_path))
