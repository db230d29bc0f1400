"""Our encoders beside PyTorch's: utterances per CPU-second on one core, float32.

    python benchmarks/encoders.py [--torch-python PYTHON] [--rounds N] [--only WORD] [--json FILE]

The base models of the text and speech families, HuBERT-large, Whisper-small's encoder and ViT-base,
with random weights. PYTHON is an interpreter with torch and transformers 5 (its models' weights go
through our loader, and outputs are compared); without it our side runs alone. WORD chooses cases
whose name holds it. Each engine is a process of its own, pinned to the same core, and they take
turns batch by batch, so that both meet the same neighbours on a shared machine. The bare matrix
product tells how near to the machine's rate each engine is. About fifteen minutes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command
from benchmarks.engines import Engine, serve

_DEBERTA_V3 = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
_SMALL = {"d_model": 768, "encoder_layers": 12, "encoder_attention_heads": 12}
_SMALL |= {"encoder_ffn_dim": 3072, "decoder_layers": 1, "decoder_attention_heads": 12}
# model: its model_type, and what differs from that type's defaults in transformers
TEXT = {
    "BERT": ("bert", {}),
    "RoBERTa": ("roberta", {"max_position_embeddings": 514}),
    "DistilBERT": ("distilbert", {}),
    "MPNet": ("mpnet", {"max_position_embeddings": 514}),
    "DeBERTa-v3": ("deberta-v2", _DEBERTA_V3),
}
SPEECH = {
    "wav2vec2": ("wav2vec2", {}),
    "WavLM-base": ("wavlm", {}),
    "data2vec-base": ("data2vec-audio", {}),
    "HuBERT-large": ("hubert", _LARGE),
    "Whisper-small": ("whisper", _SMALL),
}
MODELS = TEXT | SPEECH | {"ViT": ("vit", {})}
# name: (model, rows, valid length, padded length); tokens, samples at 16 kHz or pixels a side
CASES = {
    "BERT, T=30, B=16": ("BERT", 16, 30, 30),
    "BERT, T=30 in its bucket of 32, B=16": ("BERT", 16, 30, 32),
    "RoBERTa, T=30 in 32, B=16": ("RoBERTa", 16, 30, 32),
    "DistilBERT, T=30 in 32, B=16": ("DistilBERT", 16, 30, 32),
    "MPNet, T=30 in 32, B=16": ("MPNet", 16, 30, 32),
    "DeBERTa-v3, T=30 in 32, B=16": ("DeBERTa-v3", 16, 30, 32),
    "DeBERTa-v3, T=128, B=4": ("DeBERTa-v3", 4, 128, 128),
    "wav2vec2, 4.5 s, B=4": ("wav2vec2", 4, 72_000, 72_000),
    "wav2vec2, 4.5 s in its bucket of 4.88 s, B=4": ("wav2vec2", 4, 72_000, 78_125),
    "WavLM-base, 4.5 s, B=4": ("WavLM-base", 4, 72_000, 72_000),
    "data2vec-base, 4.5 s, B=4": ("data2vec-base", 4, 72_000, 72_000),
    "HuBERT-large, 4.5 s, B=4": ("HuBERT-large", 4, 72_000, 72_000),
    "ViT, faces of 224 x 224, B=8": ("ViT", 8, 224, 224),
    "Whisper-small, 4.5 s in its window of 30 s, B=1": ("Whisper-small", 1, 72_000, 480_000),
}
PRODUCT = (512, 768, 3072)  # M, K, N of the matrix product that tells the machine's rate


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", help="interpreter with torch and transformers 5")
    parser.add_argument("--rounds", type=int, default=7, help="batches a case and engine")
    parser.add_argument("--only", default="", metavar="WORD", help="cases whose name holds it")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--worker", choices=["jax", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return serve({"jax": _jax_engine, "torch": _torch_engine}[args.worker](args.folder))
    with tempfile.TemporaryDirectory() as folder:
        engines = {}
        if args.torch_python:
            engines["torch"] = _start(args.torch_python, "torch", folder)
        engines["jax"] = _start(sys.executable, "jax", folder if args.torch_python else "")
        cases = [name for name in CASES if args.only in name]
        report = _race(engines, cases, args.rounds, folder)
    command.write(report, args.json)
    return 0


def _race(engines: dict, cases: list[str], rounds: int, folder: str) -> dict:
    report = {"rounds": rounds, "cases": {}}
    print(f"utterances per CPU-second, one core, float32, median of {rounds}\n")
    print(f"{'':49}{'ours':>8}{'torch':>8}{'ratio':>8}{'of best':>9}{'error':>10}{'compile':>9}")
    for name in ["product", *cases]:
        for worker in engines.values():  # PyTorch's first: its weights are ours too
            seconds = worker.ask("prepare", name)
        row = {"compile_s": seconds}
        for worker in engines.values():
            worker.ask("run", name)  # warm
        times = {engine: [] for engine in engines}
        for _ in range(rounds):
            for engine, worker in engines.items():
                times[engine].append(worker.ask("run", name))
        for engine, seconds in times.items():
            row[engine] = {"median_s": statistics.median(seconds), "min_s": min(seconds)}
        if "torch" in engines:
            ratios = [t / j for t, j in zip(times["torch"], times["jax"], strict=True)]
            row["speedup"] = {
                "median": statistics.median(ratios),
                "of_min": min(times["torch"]) / min(times["jax"]),
            }
            if name != "product":
                theirs, ours = (_output(worker, name, folder) for worker in engines.values())
                row["relative_error"] = float(
                    np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
                )
        report["cases"][name] = row
        print(_line(name, row), flush=True)
    return report


def _output(worker: Engine, name: str, folder: str) -> np.ndarray:
    file = os.path.join(folder, "output.npy")
    worker.ask("save", f"{name}|{file}")
    return np.load(file)


def _line(name: str, row: dict) -> str:
    if name == "product":
        m, k, n = PRODUCT
        rates = [
            f"{engine} {2e-9 * m * k * n / row[engine]['min_s']:.0f}"
            for engine in ("jax", "torch")
            if engine in row
        ]
        return f"a bare product {m} x {k} x {n}, best: {', '.join(rates)} GFLOP/s"
    rows = CASES[name][1]
    line = f"{name:49}{rows / row['jax']['median_s']:>8.2f}"
    if "torch" in row:
        line += f"{rows / row['torch']['median_s']:>8.2f}{row['speedup']['median']:>8.2f}"
        line += f"{row['speedup']['of_min']:>9.2f}{row['relative_error']:>10.1e}"
    return f"{line:92}{row['compile_s']:>7.1f} s"


def _start(python: str, engine: str, folder: str) -> Engine:
    command = [python, os.path.abspath(__file__), "--worker", engine, "--folder", folder]
    environment = {
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    return Engine(command, environment)


def _pin() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _timed(step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def _inputs(name: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Model, padded ids or samples or pixels, and how many of each row are valid."""
    model, rows, valid, padded = CASES[name]
    rng = np.random.default_rng(0)
    if model == "ViT":
        pixels = rng.normal(size=(rows, valid, valid, 3)).astype(np.float32)
        return model, pixels, np.full(rows, valid, np.int32)
    text = model in TEXT
    x = np.zeros((rows, padded), np.int32 if text else np.float32)
    x[:, :valid] = (
        rng.integers(2, 30_522, (rows, valid)) if text else 0.1 * rng.normal(size=(rows, valid))
    )
    return model, x, np.full(rows, valid, np.int32)


def _jax_engine(folder: str) -> dict:
    _pin()
    import jax
    import jax.numpy as jnp
    import transformers

    from cmarr_jax.extract import speech, text, video, weights

    families = {**text.FAMILIES, **speech.FAMILIES, **video.FAMILIES}
    modules, variables, ready = {}, {}, {}
    for model, (kind, fields) in MODELS.items():
        config = transformers.CONFIG_MAPPING[kind](**fields).to_dict()
        modules[model] = families[kind].from_config(model, config, jnp.dtype("float32"))

    def prepare(name: str) -> float:
        if name == "product":
            a, b = (jnp.ones(shape) for shape in (PRODUCT[:2], PRODUCT[1:]))
            ready[name] = lambda: jax.block_until_ready(jnp.matmul(a, b))
            return 0.0
        model, x, valid = _inputs(name)
        if model == "ViT":
            arguments = (x, np.ones(3, np.float32), np.zeros(3, np.float32))
        elif model in TEXT:
            arguments = (x, np.arange(x.shape[1])[None] < valid[:, None])
        else:
            arguments = (x, valid)
        if model not in variables and folder:
            file = os.path.join(folder, model, "model.safetensors")
            names = families[MODELS[model][0]].tensors(modules[model])
            variables[model] = jax.device_put(weights.load(file, modules[model], names))
        elif model not in variables:
            rng = np.random.default_rng(0)
            shapes = jax.eval_shape(modules[model].init, jax.random.key(0), *arguments)
            variables[model] = jax.tree.map(
                lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape, np.float32)), shapes
            )
        start = time.process_time()
        last = jax.jit(lambda *inputs: modules[model].apply(*inputs)[-1])
        compiled = last.lower(variables[model], *arguments).compile()
        seconds = time.process_time() - start
        ready[name] = lambda: jax.block_until_ready(compiled(variables[model], *arguments))
        return seconds

    def save(argument: str) -> float:
        name, file = argument.split("|")
        model, _, valid = _inputs(name)
        frames = modules[model].num_frames(valid[0]) if model in SPEECH else valid[0]
        out = np.asarray(ready[name]())
        np.save(file, out if model == "ViT" else out[:, :frames])
        return 0.0

    return {"prepare": prepare, "run": lambda name: _timed(ready[name]), "save": save}


def _torch_engine(folder: str) -> dict:
    _pin()
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    models, spectra = {}, transformers.WhisperFeatureExtractor()

    def opened(name: str) -> torch.nn.Module:
        if name in models:
            return models[name]
        kind, fields = MODELS[name]
        config = transformers.CONFIG_MAPPING[kind](**fields)
        model = models[name] = transformers.AutoModel.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(os.path.join(folder, name))
        return model

    def prepare(name: str) -> float:
        if name != "product":
            opened(CASES[name][0])
        return 0.0

    def output(name: str) -> torch.Tensor:
        """Of the valid part alone: padding costs PyTorch time and changes its speech vectors."""
        if name == "product":
            return torch.ones(PRODUCT[:2]) @ torch.ones(PRODUCT[1:])
        name, x, valid = _inputs(name)
        model, x = opened(name), x[:, : valid[0]]
        with torch.inference_mode():
            if name == "Whisper-small":  # spectra are part of ours too
                made = spectra(list(x), sampling_rate=16_000, return_tensors="pt")
                frames = -(-valid[0] // 320)
                return model.get_encoder()(made.input_features).last_hidden_state[:, :frames]
            x = torch.from_numpy(x)
            if name == "ViT":  # the class token's vector, as ours gives
                return model(x.permute(0, 3, 1, 2)).last_hidden_state[:, 0]
            return model(x.long() if name in TEXT else x).last_hidden_state

    def save(argument: str) -> float:
        name, file = argument.split("|")
        np.save(file, output(name).numpy())
        return 0.0

    return {"prepare": prepare, "run": lambda name: _timed(lambda: output(name)), "save": save}


if __name__ == "__main__":
    sys.exit(main())
