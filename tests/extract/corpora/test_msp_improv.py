import os

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import msp_improv
from tests.extract import releases


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return releases.msp_improv(str(tmp_path_factory.mktemp("msp")))


def test_the_label_is_what_was_perceived(root):
    turns = msp_improv.scan(root).utterances
    assert [u.id for u in turns] == sorted(releases.MSP_TURNS)
    for u in turns:
        _, label, speaker, session, _ = releases.MSP_TURNS[u.id]
        assert (u.label, u.speaker, u.session) == (label, speaker, session)
        assert (u.start, u.end, u.side) == (None, None, None)
        assert u.wav.endswith(f"/{u.id}.wav") and u.video is None
    # One improvisation is one dialogue, whoever speaks and whatever the scenario.
    assert turns[0].group == turns[1].group == "1-S01A"
    assert len({u.group for u in turns}) == len(turns) - 1


def test_transcripts_are_found_flat_or_by_session_and_may_be_absent_or_empty(root):
    texts = {u.id: u.text for u in msp_improv.scan(root).utterances}
    assert texts["MSP-IMPROV-S01A-F01-S-FM01"] == "How can I not?"
    assert texts["MSP-IMPROV-S01A-M01-S-FM02"] == "Well. Really well."
    assert {i for i, text in texts.items() if text is None} == {
        i for i, (*_, text) in releases.MSP_TURNS.items() if not (text or "").strip()
    }


@pytest.mark.parametrize("scenarios, kept", [("S", 4), ("RT", 3), ("PRST", 8), ("TSRP", 8)])
def test_scenarios(root, scenarios, kept):
    turns = msp_improv.scan(root, scenarios=scenarios).utterances
    assert len(turns) == kept
    assert {u.id.split("-")[4] for u in turns} == set(scenarios)


@pytest.mark.parametrize("spelling", ["Evaluation.txt", "Evalution.txt", "evaluation.txt"])
def test_either_spelling_is_found_also_below_the_root(tmp_path, spelling):
    releases.msp_improv(str(tmp_path), spelling)
    assert len(msp_improv.scan(str(tmp_path)).utterances) == len(releases.MSP_TURNS)


def test_known_counts(root, monkeypatch):
    warnings = msp_improv.scan(root, scenarios="S").warnings
    assert warnings[-1] == (
        "found 1 ang, 0 hap, 1 neu, 1 sad = 3; "
        "the full release has 470 ang, 1048 hap, 1789 neu, 633 sad = 3940"
    )
    assert "= 7798" in msp_improv.scan(root, scenarios="TSRP").warnings[-1]
    assert not any("full release" in w for w in msp_improv.scan(root, scenarios="RT").warnings)
    monkeypatch.setitem(
        msp_improv.KNOWN_COUNTS, ("S", False), {"ang": 1, "hap": 0, "neu": 1, "sad": 1}
    )
    assert not any("full release" in w for w in msp_improv.scan(root, scenarios="S").warnings)


def test_damage_is_a_warning(tmp_path):
    root = releases.msp_improv(str(tmp_path))
    turn = "MSP-IMPROV-S01A-F01-S-FM01"
    releases.write_wav(f"{root}/Copy/{turn}.wav", 0.1)
    releases.write(f"{root}/Evaluation.txt", f"UTD{turn[3:]}.avi; Q; A:1\nUTD{turn[3:]}.avi; A;\n")
    turns, _, warnings, *_ = msp_improv.scan(root)
    assert warnings[:4] == [
        "1 files have a name twice; the first path counts",
        "both spellings of Evaluation.txt found, Evaluation.txt counts",
        f"Evaluation.txt: {turn} has the unknown emotion 'Q'",
        f"Evaluation.txt: repeats {turn}, the first line counts",
    ]
    assert [u.label for u in turns] == [""] and "/Audio/" in turns[0].wav
    assert (
        "line 25 is no label line: 'UTD-IMPROV-broken; N'"
        in (msp_improv.scan(releases.msp_improv(str(tmp_path / "again"))).warnings[0])
    )


def test_packed_transcripts_are_pointed_out(tmp_path):
    root = releases.msp_improv(str(tmp_path))
    for folder, _, names in os.walk(f"{root}/All_human_transcriptions"):
        for name in names:
            os.remove(os.path.join(folder, name))
    releases.write(f"{root}/Human_Transcriptions.zip", b"PK")
    assert any("unpack it" in w for w in msp_improv.scan(root).warnings)


def test_complete_turns_have_all_three_files(tmp_path):
    root = releases.msp_improv(str(tmp_path))
    with pytest.raises(UserError) as refused:
        msp_improv.scan(root, complete=True)
    assert str(refused.value).startswith(
        "--complete: none of 8 turns has all of them (5 have a transcript, 8 have sound, 0 have "
        "video)"
    )
    for turn in releases.MSP_TURNS:
        if turn != "MSP-IMPROV-S02H-F02-P-FM11":
            releases.write(f"{root}/Video/{turn}.avi", b"RIFF")
    found = msp_improv.scan(root, scenarios="S", complete=True)
    # Two more of scenario S have no transcript, or an empty one.
    assert [u.id for u in found.utterances] == [
        "MSP-IMPROV-S01A-F01-S-FM01",
        "MSP-IMPROV-S01A-M01-S-FM02",
    ]
    assert found.warnings[-1].endswith("460 ang, 999 hap, 1733 neu, 627 sad = 3819")


def test_mistakes_are_refused(root, tmp_path):
    with pytest.raises(UserError, match=r"no Evaluation\.txt"):
        msp_improv.scan(str(tmp_path))
    with pytest.raises(UserError, match="--scenarios=SX: wanted some of the letters PRST"):
        msp_improv.scan(root, scenarios="SX")
    with pytest.raises(UserError, match="--scenarios="):
        msp_improv.scan(root, scenarios="")


def test_sound_of_no_turn_is_counted_whatever_the_scenario(tmp_path):
    root = releases.msp_improv(str(tmp_path))
    assert not any("not read" in w for w in msp_improv.scan(root, scenarios="S").warnings)
    releases.write_wav(f"{root}/Audio/MSP-IMPROV-S01A-F01-S-FM99.wav", 0.1)
    warnings = msp_improv.scan(root, scenarios="S").warnings
    assert any(w.startswith("1 wav files of no turn in the label files are not") for w in warnings)
