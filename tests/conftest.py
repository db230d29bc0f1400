"""Two CPU devices, strict shapes, quick compiles, and a tiny pack that every test may read."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)
# Several tests train the same program: compile it once a session.
_CACHE = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

from cmarr_jax.data import pack  # noqa: E402

DIMS = {"text": 12, "speech": 10, "video": 6}


def write_pack(path: str, *, dims=DIMS, num: int = 60, sessions: int = 3, length: int = 9, seed=0):
    """A learnable pack: each modality's frames hold the class and noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    session = np.arange(num) * sessions // num
    lengths = rng.integers(1, length + 1, size=(len(dims), num))
    lengths[-1, ::7] = 0 if len(dims) > 1 else 1

    def frames(k, dim):
        classes = rng.normal(size=(3, dim))
        for i in range(num):
            noise = rng.normal(size=(lengths[k, i], dim))
            yield (2 * classes[labels[i]] + noise).astype(np.float32)

    return pack.write(
        str(path),
        name="tiny",
        class_names=("a", "b", "c"),
        columns={
            "id": [f"u{i:03d}" for i in range(num)],
            "session": [str(s + 1) for s in session],
            "speaker": [f"{s + 1}{'FM'[i % 2]}" for i, s in enumerate(session)],
            "label": [("a", "b", "c")[y] for y in labels],
            "group": [f"{s + 1}_{i // 4}" for i, s in enumerate(session)],
        },
        sequences={m: frames(k, dim) for k, (m, dim) in enumerate(dims.items())},
        provenance={"made_by": "tests"},
    )


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """A process may hold so many compiled programs only: each takes some of its memory maps."""
    yield
    jax.clear_caches()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
