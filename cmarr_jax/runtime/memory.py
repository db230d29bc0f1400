"""What a sweep takes of memory, and what there is."""

import os

import jax

# Measured on CPU over the systems of table2: with what is written, computed and compiled meanwhile
# a process takes at most so many times its parameters and optimizer, and this besides.
_TIMES_STATE, _BESIDES = 4.5, 1.3e9
# An accelerator holds the gradient and an update besides; what batches take comes on top.
_TIMES_STATE_ON_DEVICE = 1.5


def total() -> int:
    """Bytes of this process' devices together; on CPU of the machine, or of its control group."""
    held = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    return sum(held) or host()


def host() -> int:
    """Bytes that this process may take of the machine."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as f:
            return min(machine, int(f.read()))
    except (OSError, ValueError):  # no control group, or "max"
        return machine


def of_runs(num_params: int, num_runs: int) -> int:
    """Bytes that a stage's runs keep: of each parameter its value, its running mean, the best so
    far and the optimizer's two moments, in float32.
    """
    return 5 * 4 * num_params * num_runs


def expected(state: int, features: int) -> int:
    """Bytes that training takes, of what `total` counts.

    Args:
      state: of `of_runs`, of all runs on this process' devices.
      features: of the corpus; 0 where they stay on disk.
    """
    if jax.local_devices()[0].platform == "cpu":
        return int(_BESIDES + _TIMES_STATE * state + 2 * features)  # the reader's and JAX's
    return int(_TIMES_STATE_ON_DEVICE * state + jax.local_device_count() * features)
