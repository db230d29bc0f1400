import numpy as np

from cmarr_jax.data import describe, gaps, pack
from cmarr_jax.data.protocol import Fold

MODALITIES = ("text", "speech", "video")


def fold(number=1):
    train, val, test = np.arange(4), np.arange(4, 6), np.arange(6, 9)
    return Fold(number, "2", train, val, test)


def test_nothing_is_said_where_everything_is():
    present = np.ones((9, 3), bool)
    present[7, 1] = False  # one utterance of the part lacks speech
    assert gaps.find(present, MODALITIES, [fold()]) == []


def test_a_test_part_without_a_modality_is_said_with_what_becomes_nan():
    present = np.ones((9, 3), bool)
    present[6:, 1] = False
    assert gaps.find(present, MODALITIES, [fold(2)]) == [
        "fold 2 (2): its test part has no speech; {s} is not scored there, so it and avg have no mean "
        "over all folds"
    ]


def test_two_modalities_that_lack_take_three_conditions():
    present = np.ones((9, 3), bool)
    present[6:, 1:] = False
    (line,) = gaps.find(present, MODALITIES, [fold()])
    assert "has no speech, video; {s}, {v}, {s,v} is not scored" in line


def test_training_and_validation_parts_are_looked_at_too():
    present = np.ones((9, 3), bool)
    present[:6, 2] = False
    lines = gaps.find(present, MODALITIES, [fold()])
    assert lines[0] == (
        "fold 1 (2): its training part has no video; its models learn nothing of video"
    )
    assert "its validation part has no video; epochs are chosen without {v}" in lines[1]


def write(tmp_path, lacking):
    sessions = [str(1 + i // 4) for i in range(12)]
    return pack.write(
        str(tmp_path / "pack"),
        name="x",
        class_names=["a", "b"],
        provenance={},
        columns={
            "id": [f"u{i}" for i in range(12)],
            "session": sessions,
            "speaker": sessions,
            "label": ["a", "b"] * 6,
        },
        sequences={
            "text": [np.ones((1, 2), "f4")] * 12,
            "speech": [np.ones((0 if s == lacking else 2, 3), "f4") for s in sessions],
        },
    )


def test_validate_names_a_session_without_a_modality(tmp_path):
    _, warnings = describe.validate(write(tmp_path, "2"))
    assert "session 2 has no speech at all; as a test part it scores none of it" in warnings


def test_validate_counts_what_lies_in_a_pack_and_is_not_read(tmp_path):
    made = write(tmp_path, "none")
    (tmp_path / "pack/video.npy").write_bytes(b"x")
    (tmp_path / "pack/notes.txt").write_bytes(b"x")
    (tmp_path / "pack/problems.csv").write_bytes(b"id,modality,status,detail\n")
    _, warnings = describe.validate(made)
    assert f"2 entries of {made.path} are not read (notes.txt, video.npy)" in warnings
