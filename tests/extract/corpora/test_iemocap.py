import os
import shutil

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import iemocap
from tests.extract import releases


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return releases.iemocap(str(tmp_path_factory.mktemp("iemocap")))


def test_labels_speakers_sides_and_times(root):
    turns = iemocap.scan(root).utterances
    assert [u.id for u in turns] == sorted(releases.IEMOCAP_TURNS)  # neither XX turns nor `._*`
    for u in turns:
        _, label, speaker, side, _ = releases.IEMOCAP_TURNS[u.id]
        assert (u.label, u.speaker, u.side, u.session) == (label, speaker, side, speaker[4])
        assert u.group == u.id[: u.id.rindex("_")]
    assert turns[0].start == 6.2901 and turns[0].end == 7.5


def test_the_speaker_is_the_last_tokens_letter_not_the_marker_wearer(root):
    turns = {u.id: u for u in iemocap.scan(root).utterances}
    assert turns["Ses01F_impro01_M000"].speaker == "Ses01M"
    assert turns["Ses01M_script01_1b_F000"].speaker == "Ses01F"


def test_transcripts_survive_odd_bytes_and_may_be_absent(root):
    texts = {u.id: u.text for u in iemocap.scan(root).utterances}
    assert texts == {i: text for i, (*_, text) in releases.IEMOCAP_TURNS.items()}
    stripped = {u.id: u.text for u in iemocap.scan(root, strip_tags=True).utterances}
    assert stripped["Ses01F_impro01_M000"] == "I I don't know"
    assert stripped["Ses05M_impro05_F003"] is None  # nothing but a tag
    assert stripped["Ses02F_impro02_F001"] == "Great: great."


def test_female_left(root):
    sides = {u.id: u.side for u in iemocap.scan(root, speaker_side="female_left").utterances}
    assert {side for i, side in sides.items() if i.split("_")[-1][0] == "F"} == {"left"}
    assert {side for i, side in sides.items() if i.split("_")[-1][0] == "M"} == {"right"}


def test_files_are_named_where_they_exist(root, tmp_path):
    copy = str(tmp_path / "IEMOCAP_full_release")
    shutil.copytree(root, copy)
    os.remove(f"{copy}/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav")
    releases.write(f"{copy}/Session1/dialog/avi/DivX/Ses01F_impro01.avi", b"RIFF")
    turns = {u.id: u for u in iemocap.scan(str(tmp_path)).utterances}  # the folder above will do
    assert turns["Ses01F_impro01_F000"].wav is None
    assert turns["Ses01F_impro01_M000"].wav.endswith("/Ses01F_impro01/Ses01F_impro01_M000.wav")
    assert turns["Ses01F_impro01_F000"].video.endswith("/DivX/Ses01F_impro01.avi")
    assert turns["Ses02F_impro02_F001"].video is None


def test_counts_that_differ_from_the_release_are_a_warning_with_numbers(root, monkeypatch):
    (warning,) = iemocap.scan(root).warnings
    assert "found 1 ang, 3 hap, 2 neu, 2 sad = 8" in warning
    assert "1103 ang, 1636 hap, 1708 neu, 1084 sad = 5531" in warning
    here = {
        "improvised": {"ang": 1, "fru": 1, "hap": 2, "neu": 2, "sad": 2},
        "scripted": {"exc": 1},
    }
    monkeypatch.setattr(iemocap, "KNOWN_COUNTS", here)
    for only in (None, "improvised", "scripted"):
        for classes in ("4", "6", "all"):
            assert iemocap.scan(root, classes=classes, only=only).warnings == []


@pytest.mark.parametrize(
    "classes, names, labelled",
    [
        ("4", "ang hap neu sad", 8),
        ("6", "ang exc fru hap neu sad", 9),
        ("all", "ang dis exc fea fru hap neu oth sad sur", 9),
    ],
)
def test_classes(root, classes, names, labelled):
    found = iemocap.scan(root, classes=classes)
    assert found.class_names == tuple(names.split())
    labels = {u.id: u.label for u in found.utterances}
    assert sum(map(bool, labels.values())) == labelled
    assert labels["Ses01F_impro01_M001"] == ("fru" if labelled == 9 else "")
    assert labels["Ses01M_script01_1b_F000"] == ("hap" if classes == "4" else "exc")
    assert labels["Ses05M_impro05_M004"] == ""  # no majority


def test_the_published_counts(root):
    """Of the whole release, and of the improvised half that many papers take."""

    def known(**options):
        return iemocap.scan(root, **options).warnings[-1].partition("the full release has ")[2]

    assert known() == "1103 ang, 1636 hap, 1708 neu, 1084 sad = 5531"
    six = "1103 ang, 1041 exc, 1849 fru, 595 hap, 1708 neu, 1084 sad = 7380"
    assert known(classes="6") == six
    assert known(classes="all").endswith("= 7532") and "107 sur" in known(classes="all")
    assert known(only="improvised") == "289 ang, 947 hap, 1099 neu, 608 sad = 2943"
    assert known(only="scripted").endswith("= 2588")


def test_only_one_kind_of_recording(root):
    scripted = iemocap.scan(root, only="scripted")
    assert [u.id for u in scripted.utterances] == ["Ses01M_script01_1b_F000"]
    improvised = iemocap.scan(root, only="improvised")
    assert len(improvised.utterances) == len(releases.IEMOCAP_TURNS) - 1
    assert not any("not read" in line for line in scripted.warnings + improvised.warnings)


def test_damage_is_a_warning_that_names_the_file(root, tmp_path):
    copy = str(tmp_path / "IEMOCAP_full_release")
    shutil.copytree(root, copy)
    shutil.rmtree(f"{copy}/Session5")
    file = f"{copy}/Session2/dialog/EmoEvaluation/Ses02F_impro02.txt"
    with open(file, "a") as f:
        f.write("[1.0 - 2.0] cut he\n")
        for times in ("1.0 - 2.0.5", "2.0 - 1.0"):
            f.write(f"[{times}]\tSes02F_impro02_M001\tang\t[1, 1, 1]\n")
        f.write("[1.0 - 2.0]\tSes02F_impro02_M000\tjoy\t[1, 1, 1]\n")
        f.write("[1.0 - 2.0]\tSes02F_impro02_F001\tang\t[1, 1, 1]\n")
    turns, _, warnings, *_ = iemocap.scan(copy)
    place = "Session2/dialog/EmoEvaluation/Ses02F_impro02.txt"
    assert warnings[:6] == [
        f"{place}: not a label line: '[1.0 - 2.0] cut he'",
        f"{place}: not a label line: '[1.0 - 2.0.5]\\tSes02F_impro02_M001\\tang\\t[1, 1, 1]'",
        f"{place}: not a label line: '[2.0 - 1.0]\\tSes02F_impro02_M001\\tang\\t[1, 1, 1]'",
        f"{place}: Ses02F_impro02_M000 has the unknown emotion 'joy'",
        f"{place}: repeats Ses02F_impro02_F001, the first line counts",
        "Session5/dialog/EmoEvaluation: missing, session left out",
    ]
    labels = {u.id: u.label for u in turns}
    assert labels["Ses02F_impro02_M000"] == "" and labels["Ses02F_impro02_F001"] == "hap"


def test_a_wrong_root_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no label under Session1\.\.5/dialog/EmoEvaluation"):
        iemocap.scan(str(tmp_path))


def test_sound_of_no_turn_is_counted(root, tmp_path):
    copy = str(tmp_path / "IEMOCAP_full_release")
    shutil.copytree(root, copy)
    for number in (90, 91):
        file = f"Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F0{number}.wav"
        with open(f"{copy}/{file}", "wb"):
            pass
    assert (
        "2 wav files of no turn in the label files are not read "
        "(Ses01F_impro01_F090, Ses01F_impro01_F091)"
    ) in iemocap.scan(copy).warnings
