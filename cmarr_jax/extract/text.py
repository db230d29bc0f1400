"""Transcripts to token vectors: hidden states of a published text encoder."""

from collections.abc import Sequence

import jax
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract import buckets, pretrained
from cmarr_jax.extract.encoder import open_encoder
from cmarr_jax.extract.models import bert, deberta, distilbert, mpnet, roberta
from cmarr_jax.extract.source import Loaded, Source, Utterance

_VERSION = 1  # raise it with every change that changes the numbers
FAMILIES = {
    "bert": bert,
    "roberta": roberta,
    "xlm-roberta": roberta,
    "camembert": roberta,
    "deberta-v2": deberta,
    "distilbert": distilbert,
    "mpnet": mpnet,
}
_MAX_LENGTH = 512  # tokens, of a model that has more
_CPU_TOKENS = 512  # a batch
_ACCELERATOR_TOKENS = 16_384


def source(
    model: str,
    *,
    keep_special_tokens: bool,
    max_length: int | None,
    dtype: str,
    layers: str = "last",
    budget: int | None = None,
) -> Source:
    """The text modality, one vector a token: a word or a part of one.

    Args:
      model: a folder with a Hugging Face model of `FAMILIES` (`config.json`, weights and its
        tokenizer's files), or its name on the hub.
      keep_special_tokens: keeps the vectors of the marks at a text's ends, [CLS] and [SEP] or <s>
        and </s>; MMIN's features lack them.
      max_length: tokens, both marks among them; longer texts are cut and keep the last. None: as
        many as the model has, and at most 512.
      dtype: of the matrix products, "float32" or "bfloat16"; norms and softmax are float32.
      layers: hidden states to keep, one of `layers.FORMS`.
      budget: tokens a batch; None = what suits the device in a whole corpus.

    Raises:
      UserError: the model is not there, is of another kind, or its files contradict each
        other; `max_length` or `layers` is out of its range.
    """
    encoder = open_encoder(model, FAMILIES, layers=layers, dtype=dtype)
    module = encoder.module
    if max_length is None:
        max_length = min(_MAX_LENGTH, module.max_length)
    if not 3 <= max_length <= module.max_length:
        raise UserError(f"--max-tokens={max_length}: wanted 3 to {module.max_length}, {model}'s")
    tokenizer = pretrained.tokenizer(encoder.folder, module.vocab_size)
    if (marks := len(tokenizer("")["input_ids"])) != 2:
        raise UserError(
            f"{encoder.folder}: the tokenizer puts {marks} marks around a text; wanted 2, one at "
            "each end, such as [CLS] and [SEP]"
        )
    ladder = buckets.tokens(max_length)
    if budget is None:
        budget = _CPU_TOKENS if jax.default_backend() == "cpu" else _ACCELERATOR_TOKENS

    def load(utterance: Utterance) -> Loaded:
        if utterance.text is None:
            return Loaded("missing_text", None, "no transcript")
        try:
            utterance.text.encode()
        except UnicodeEncodeError:  # bytes of a command line that no character stands for
            return Loaded("unreadable", None, "not UTF-8")
        ids = tokenizer(utterance.text, verbose=False)["input_ids"]
        # Byte-level tokenizers make a token of a space.
        if not keep_special_tokens and (len(ids) == 2 or not utterance.text.strip()):
            return Loaded("missing_text", None, "the transcript holds no word")
        if len(ids) <= max_length:
            return Loaded("ok", np.array(ids, np.int32))
        cut = np.array([*ids[: max_length - 1], ids[-1]], np.int32)
        return Loaded("truncated", cut, f"{len(ids)} tokens cut to {max_length}")

    def batch_size(bucket: int) -> int:
        return buckets.batch_size(bucket, budget)

    def encode(bucket: int, items: Sequence[np.ndarray]) -> list[np.ndarray]:
        ids = np.full((batch_size(bucket), bucket), tokenizer.pad_token_id, np.int32)
        mask = np.zeros(ids.shape, bool)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item
            mask[row, : len(item)] = True
        vectors = encoder.forward(ids, mask)
        ends = (0, 0) if keep_special_tokens else (1, 1)
        return [vectors[k, ends[0] : len(x) - ends[1]].copy() for k, x in enumerate(items)]

    return Source(
        modality="text",
        dim=encoder.dim,
        unit="tokens",
        recipe=encoder.recipe
        | {
            "version": _VERSION,
            "keep_special_tokens": keep_special_tokens,
            "max_length": max_length,
        },
        amount=lambda utterance: len((utterance.text or "").split()) + 2.0,
        load=load,
        bucket=lambda item: buckets.smallest(ladder, len(item)),
        batch_size=batch_size,
        encode=encode,
    )
