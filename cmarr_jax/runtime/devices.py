"""JAX on this machine: its compile cache, and one device for each CPU core."""

import gc
import os

import jax
import jax.extend

from cmarr_jax.runtime import processes


def prepare_to_compile() -> None:
    """Makes tracing and compiling quick; call it after imports, before anything compiles.

    Compiled programs are kept in the user's cache folder, unless JAX's variables say otherwise. All
    are kept: by default JAX leaves out what compiles within a second, some fifty programs of a
    sweep.

    All that is imported is taken from the garbage collector, which would look through it again and
    again while programs are traced, a tenth of that time.

    What the shell sets for other projects does not count: numbers are float32 here, which losses
    and checkpoints are made for, their types mix as usual, and arrays may go to the devices.
    """
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_transfer_guard", "allow")
    if not gc.get_freeze_count():
        gc.freeze()
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "cmarr_jax", "xla"))


def use_cores(num_runs: int) -> None:
    """Makes each CPU core a device, because one core for each run is faster than all cores for one.

    With several processes, each stays one device.
    """
    if processes.are_joined():
        return
    wanted = min(os.cpu_count() or 1, num_runs)
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:  # devices exist: an earlier program had another number of runs
        if jax.default_backend() == "cpu":
            jax.extend.backend.clear_backends()
            jax.config.update("jax_num_cpu_devices", wanted)


def describe() -> str:
    """Number and kind of the devices of all processes, as text."""
    return f"{jax.device_count()} x {jax.local_devices()[0].device_kind}"
