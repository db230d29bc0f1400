"""A turn's context is the mean over its speaker's turns in its dialogue, and nothing else."""

import os

import numpy as np
import pytest

from cmarr_jax.data import dialogue, pack, protocol
from cmarr_jax.errors import UserError
from tests.conftest import DIMS, write_pack


@pytest.fixture
def made(tiny_pack, tmp_path):
    return dialogue.make(tiny_pack.path, str(tmp_path / "out"))


def written(source, folder, *, without="", raised=()):
    """`source` once more: without a column, and with 1 added to the features of some rows."""
    return pack.write(
        folder,
        name="x",
        class_names=source.class_names,
        columns={name: values for name, values in source.columns.items() if name != without},
        sequences={
            m: [source.sequence(m, i) + np.float32(i in raised) for i in range(len(source.labels))]
            for m in source.modalities
        },
        provenance={},
    )


def context(source, modality, i):
    """By a loop: the mean of the means of the turns that have the modality."""
    means = [
        source.sequence(modality, j).astype(np.float64).mean(axis=0)
        for j in range(len(source.labels))
        if source.columns["group"][j] == source.columns["group"][i]
        and source.columns["speaker"][j] == source.columns["speaker"][i]
        and len(source.sequence(modality, j))
    ]
    return np.mean(means, axis=0)


def test_rows_stay_and_the_context_stands_beside_each(tiny_pack, made):
    for modality, dim in DIMS.items():
        for i in range(len(tiny_pack.labels)):
            before, after = tiny_pack.sequence(modality, i), made.sequence(modality, i)
            np.testing.assert_array_equal(after[:, :dim], before)
            assert after.shape == (len(before), 2 * dim) and after.dtype == before.dtype
            for row in after:
                np.testing.assert_allclose(row[dim:], context(tiny_pack, modality, i), atol=1e-5)
    for column, values in tiny_pack.columns.items():
        assert made.columns[column].tolist() == values.tolist()
    assert made.name == "tiny + dialogue context"
    assert made.provenance["from"]["fingerprint"] == pack.fingerprint(tiny_pack)


@pytest.mark.parametrize("scheme", ["session", "speaker"])
def test_no_part_of_a_fold_sees_another(tiny_pack, tmp_path, scheme):
    """What is tested is changed; what is learned from stays, and so the other way round."""
    fold = protocol.make_folds(tiny_pack.columns, tiny_pack.labels, scheme=scheme)[0]
    parts = {name: getattr(fold, name) for name in ("train", "val", "test")}
    before = dialogue.make(tiny_pack.path, str(tmp_path / "before"))
    for name, rows in parts.items():
        changed = written(tiny_pack, str(tmp_path / name), raised=rows)
        after = dialogue.make(changed.path, str(tmp_path / f"{name}_out"))
        for i in np.concatenate(list(parts.values())):
            same = (after.sequence("text", i) == before.sequence("text", i)).all()
            assert same == (i not in rows)


def test_a_turn_without_a_dialogue_is_its_own_context(tmp_path):
    source = write_pack(tmp_path / "pack")
    file = os.path.join(source.path, "utterances.csv")
    with open(file, encoding="utf-8") as f:
        text = f.read()
    with open(file, "w", encoding="utf-8") as f:
        f.write(text.replace(",1_0\n", ",\n"))
    made = dialogue.make(source.path, str(tmp_path / "out"))
    assert made.columns["group"][0] == made.columns["group"][2] == ""
    for i in (0, 2):
        np.testing.assert_allclose(
            made.sequence("text", i)[0, DIMS["text"] :],
            source.sequence("text", i).mean(axis=0),
            atol=1e-5,
        )


def test_the_command(tiny_pack, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert dialogue.main([tiny_pack.path, out]) == 0
    assert "60 utterances" in (said := capsys.readouterr().out) and "text 24-d" in said
    assert pack.read(out).modalities == tiny_pack.modalities


@pytest.mark.parametrize(
    "source, wrong",
    [
        (lambda p, folder: folder + "/none", "no such folder"),
        (
            lambda p, folder: written(p, folder + "/bare", without="group").path,
            "names no dialogues",
        ),
        (lambda p, folder: dialogue.make(p.path, folder + "/twice").path, "already"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(tiny_pack, tmp_path, capsys, source, wrong):
    path, out = source(tiny_pack, str(tmp_path)), str(tmp_path / "out")
    code = dialogue.main([path, out])
    said = capsys.readouterr().err.splitlines()
    assert code == 2 and len(said) == 1 and wrong in said[0]
    assert not os.path.exists(out)


def test_a_folder_that_is_there_stays(tiny_pack, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        dialogue.make(tiny_pack.path, str(tmp_path))
    assert os.listdir(tmp_path) == []
