import functools
import json
import os
import shutil

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import text
from cmarr_jax.extract.encoder import open_encoder
from cmarr_jax.extract.source import Utterance
from tests.extract import real
from tests.extract.samples import SENTENCES, TEXTS

pytest.importorskip("safetensors")
GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
MODEL = os.path.join(GOLDEN, "bert")
# Each with other files of its tokenizer: vocab.txt, vocab.json and merges.txt, two names of a
# SentencePiece model, tokenizer.json alone.
KINDS = ("bert", "roberta", "xlm-roberta", "deberta-v2", "distilbert", "mpnet")


def utterance(transcript):
    return Utterance("u", "1", "1F", "", "g", transcript, None, None, None, None, None)


@functools.cache
def open_source(kind, *, keep_special_tokens=True, max_length=None, **options):
    if kind in ("xlm-roberta", "deberta-v2"):
        pytest.importorskip("sentencepiece")
    return text.source(
        os.path.join(GOLDEN, kind),
        keep_special_tokens=keep_special_tokens,
        max_length=max_length,
        dtype="float32",
        **options,
    )


@pytest.fixture(scope="module")
def source():
    return open_source("bert", max_length=40)


@pytest.mark.parametrize("kind", [*KINDS, "deberta-v2-xlarge"])
def test_every_hidden_state_equals_the_reference_implementations(kind):
    encoder = open_encoder(f"{GOLDEN}/{kind}", text.FAMILIES, layers="all", dtype="float32")
    golden = np.load(f"{GOLDEN}/{kind}/states.npz")
    for number in range(3):
        ids, wanted = golden[f"ids_{number}"], golden[f"states_{number}"]
        after = min(3, encoder.module.max_length - len(ids))
        padded = np.pad(ids, (0, after), constant_values=encoder.module.vocab_size - 1)[None]
        found = encoder.forward(padded, np.arange(padded.shape[1])[None] < len(ids))
        found = found[0, : len(ids)].reshape(len(ids), *wanted.shape[::2]).swapaxes(0, 1)
        for state, reference in zip(found, wanted, strict=True):
            error = np.linalg.norm(state - reference) / np.linalg.norm(reference)
            assert error <= 2e-6, (number, error)
    assert encoder.dim == 3 * 16 and len(wanted) == 3


def check_against_torch(source, texts, expected, every, limit=2e-6):
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
            assert error <= limit, (texts[number], error)
    return by_bucket


def test_camembert_is_roberta(tmp_path):
    shutil.copytree(f"{GOLDEN}/roberta", tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "camembert"}))
    encoder = open_encoder(str(tmp_path / "m"), text.FAMILIES, layers="last", dtype="float32")
    golden = np.load(f"{GOLDEN}/roberta/states.npz")
    ids, wanted = golden["ids_1"][None], golden["states_1"][-1]
    np.testing.assert_allclose(encoder.forward(ids, ids >= 0)[0], wanted, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_equals_torch_on_each_text_alone(kind):
    expected = np.load(os.path.join(GOLDEN, kind, "expected.npz"))
    buckets = set(check_against_torch(open_source(kind), TEXTS, expected, 1))
    assert {16} < buckets <= {16, 32, 40, 64}


@pytest.mark.parametrize("kind, file", [
    ("deberta-v2", "spm.model"),
    ("xlm-roberta", "sentencepiece.bpe.model"),
])  # fmt: skip
def test_pieces_are_those_of_sentencepiece_itself(kind, file):
    """An oracle besides transformers, which takes the model file apart and puts it together anew."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{GOLDEN}/{kind}/{file}")
    source = open_source(kind)
    for transcript in (*TEXTS, *SENTENCES[:4], "so… happy"):
        # Of the model's own table of characters transformers 5 applies nothing to DeBERTa's texts.
        transcript = transcript.replace("…", "...") if kind == "deberta-v2" else transcript
        ids = pieces.encode(transcript)
        if kind == "xlm-roberta":  # numbered as fairseq does
            ids = [3 if i == pieces.unk_id() else i + 1 for i in ids]
        np.testing.assert_array_equal(source.load(utterance(transcript)).item[1:-1], ids)


@pytest.mark.parametrize("layers", ["last", "-4:"])
@pytest.mark.parametrize("name, every, folder", [
    ("minilm", 6, real.minilm),
    pytest.param("all-mpnet", 24, real.mpnet, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_published_model_equals_torch(name, every, folder, layers, tmp_path):
    model, expected = folder(tmp_path), np.load(os.path.join(GOLDEN, f"{name}.npz"))
    source = text.source(
        model, keep_special_tokens=True, max_length=None, dtype="float32", layers=layers
    )
    texts = SENTENCES
    if layers == "-4:":
        texts = SENTENCES[:5]
        expected = {k.replace("_mean", ""): expected[k] for k in sorted(expected)}
    assert len(check_against_torch(source, texts, expected, every, 1e-5)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_can_be_left_out(kind):
    source, bare = (open_source(kind, keep_special_tokens=keep) for keep in (True, False))
    item = source.load(utterance(TEXTS[0])).item
    (whole,), (inner,) = source.encode(16, [item]), bare.encode(16, [item])
    np.testing.assert_array_equal(whole[1:-1], inner)
    for transcript in ("", " ", "\n"):
        assert source.load(utterance(transcript)).status == "ok"
        assert bare.load(utterance(transcript)).status == "missing_text"
    assert bare.load(utterance("Zzz")).status == "ok"  # unknown is not absent
    assert bare.recipe != source.recipe


def test_byte_level_tokenizers_see_the_space_before_a_word_and_every_byte():
    source = open_source("roberta")
    first, later = (source.load(utterance(t)).item for t in ("happy", " happy"))
    assert len(first) != len(later) and 3 not in source.load(utterance("日本 😀")).item  # <unk>


def test_no_transcript_is_missing(source):
    got = source.load(utterance(None))
    assert (got.status, got.item) == ("missing_text", None) and got.detail


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_cut_and_keeps_its_end_mark(kind):
    short = open_source(kind, max_length=10)
    source = open_source(kind)
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
        open_source("bert", max_length=length)


def test_the_longest_text_is_the_models_unless_it_has_over_512_tokens(monkeypatch):
    assert open_source("bert").recipe["max_length"] == 40
    assert open_source("roberta").recipe["max_length"] == 160
    monkeypatch.setattr(text, "_MAX_LENGTH", 50)
    assert open_source.__wrapped__("roberta").recipe["max_length"] == 50


def test_other_layers_are_other_features_with_their_own_recipe():
    last, mean, beside = (open_source("mpnet", layers=said) for said in ("last", "-2:", "0,2"))
    assert (last.dim, mean.dim, beside.dim) == (16, 16, 32)
    assert "layers" not in last.recipe
    assert mean.recipe["layers"] == "-2:" and mean.recipe["states"] == [1, 2]
    assert beside.recipe["layout"] == "side by side"
    with pytest.raises(UserError, match=r"--layers=7: wanted last, .* from 0 to 2"):
        open_source("mpnet", layers="7")


def test_a_tokenizer_without_marks_at_the_ends_is_refused(tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(os.path.join(GOLDEN, "distilbert"), folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"post_processor": None}))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}'
    )
    with pytest.raises(UserError, match="the tokenizer puts 0 marks around a text; wanted 2"):
        text.source(str(folder), keep_special_tokens=False, max_length=None, dtype="float32")


def test_a_kind_of_model_that_is_not_known_is_named_with_those_that_are(tmp_path):
    shutil.copytree(MODEL, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "xlnet"}')
    wanted = "bert, roberta, xlm-roberta, camembert, deberta-v2, distilbert, mpnet"
    with pytest.raises(UserError, match=f"model_type is 'xlnet'; wanted {wanted}$"):
        text.source(str(tmp_path / "m"), keep_special_tokens=True, max_length=9, dtype="float32")


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
