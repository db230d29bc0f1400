"""Two CPU devices, strict shapes, programs compiled once, and a tiny pack that every test may read.

The device tier (`-m device`) alone runs on whatever accelerator is there.
"""

import contextlib
import gc
import hashlib
import importlib.metadata
import os
import time


def compile_cache() -> str:
    """The user's folder of the tests' programs, which XLA compiles for one kind of CPU."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            cpu = next((line for line in f if line.startswith("flags")), "")
    except OSError:
        cpu = ""
    key = f"{importlib.metadata.version('jaxlib')}-{hashlib.sha256(cpu.encode()).hexdigest()[:8]}"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "cmarr_jax", "tests", key)


# Compiling is most of what the tests cost, and XLA's fusion emitters are two thirds of that; to cut
# a program in parts costs a little more. XLA reads this when the first program is compiled.
_QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compile_cache())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# The commands that tests start read the environment; here a plugin may have imported JAX before.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

from cmarr_jax.data import pack  # noqa: E402

_DAYS_KEPT = 14


def _is_device_tier(config):
    return config.option.markexpr == "device"


def pytest_configure(config):
    if _is_device_tier(config):
        # An accelerator would multiply float32 as bfloat16 or TF32, good for three digits.
        jax.config.update("jax_default_matmul_precision", "highest")
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")


def pytest_collection_finish():
    """The garbage collector need not go through what was imported, while programs are traced."""
    gc.freeze()


def pytest_sessionfinish(session):
    """Each change of the code leaves programs in the cache that no later session reads."""
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if hasattr(session.config, "workerinput") or folder != compile_cache():
        return
    oldest = time.time() - _DAYS_KEPT * 24 * 3600
    with os.scandir(folder) if os.path.isdir(folder) else contextlib.nullcontext(()) as files:
        for file in files:
            if file.stat().st_atime < oldest:
                os.unlink(file)


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
    """A process may have 65,530 memory maps, and each compiled program takes some of them."""
    yield
    try:
        with open("/proc/self/maps", encoding="utf-8") as f:
            many = sum(1 for _ in f) > 20_000
    except OSError:
        many = True
    if many:
        jax.clear_caches()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _accelerators_tolerance(request, monkeypatch):
    """Ten times the tolerance in the device tier, where there is an accelerator.

    At the highest precision its products are those of float32, but it sums in another order,
    several terms at once, and its exp, log and tanh differ in their last bits. The tolerances
    in the tests are what a CPU needs.
    """
    if not _is_device_tier(request.config) or jax.default_backend() == "cpu":
        return
    compare = np.testing.assert_allclose

    def widened(actual, desired, rtol=1e-7, atol=0.0, **given):
        __tracebackhide__ = True
        compare(actual, desired, rtol=max(10 * rtol, 1e-5), atol=max(10 * atol, 1e-6), **given)

    monkeypatch.setattr(np.testing, "assert_allclose", widened)
