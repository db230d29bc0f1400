"""How much memory a sweep needs, and how much there is."""

import os

import jax

# On CPU a process takes at most `_TIMES_STATE` times its parameters and optimizer, plus `_BESIDES`
# bytes, with all that it computes, compiles and writes: measured over the systems of table2.
_TIMES_STATE, _BESIDES = 4.5, 1.3e9
# An accelerator also holds the gradient and an update; batches are not counted.
_TIMES_STATE_ON_DEVICE = 1.5


def total() -> int:
    """Bytes of all devices of this process; on CPU of the machine, or of its control group."""
    held = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    return sum(held) or host()


def host() -> int:
    """Bytes of the machine's memory that this process may take."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as f:
            return min(machine, int(f.read()))
    except (OSError, ValueError):  # no control group, or "max"
        return machine


def of_runs(num_params: int, num_runs: int) -> int:
    """Bytes that a stage's runs keep.

    For each parameter five float32 numbers: its value, its running mean, its best value so far and
    the optimizer's two moments.
    """
    return 5 * 4 * num_params * num_runs


def expected(state: int, features: int) -> int:
    """Bytes of `total` that training takes.

    Args:
      state: bytes from `of_runs`, for all runs on this process' devices.
      features: bytes of the corpus' features; 0 if they stay on disk.
    """
    if jax.local_devices()[0].platform == "cpu":
        return int(_BESIDES + _TIMES_STATE * state + 2 * features)  # the reader's copy and JAX's
    return int(_TIMES_STATE_ON_DEVICE * state + jax.local_device_count() * features)
