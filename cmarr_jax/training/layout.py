"""How the R runs of a sweep lie on the devices: one pmapped program, one leading axis.

With at least as many runs as devices, the runs are dealt out and no device talks to another. With
fewer runs, every device holds all runs and the batch is cut over the devices. In both cases the
host sees `[R, ...]`, so that a checkpoint can be resumed on another number of devices. Of several
processes each fills its own devices, and all see the same `[R, ...]`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmarr_jax.errors import UserError
from cmarr_jax.runtime import processes
from cmarr_jax.runtime.processes import PyTree

AXIS = "devices"


class Layout(NamedTuple):
    """Places `num_runs` on `devices`; a device runs its own in turn, or all at once (vmapped)."""

    num_runs: int
    devices: tuple[jax.Device, ...]
    vmapped: bool  # else in turn, by `jax.lax.map`

    @property
    def cuts_batch(self) -> bool:
        """Whether the batch is cut over the devices, instead of the runs being dealt out."""
        return self.num_runs < len(self.devices)

    @property
    def batch_axis(self) -> str | None:
        """Name of the mapped axis that losses gather over; None = the batch is not cut."""
        return AXIS if self.cuts_batch else None

    def deal(self, tree: PyTree) -> PyTree:
        """Puts leaves `[R, ...]` on the devices as `[devices, runs, ...]`."""

        def place(leaf):
            leaf = np.asarray(leaf)
            if self.cuts_batch:
                return np.broadcast_to(leaf, (len(self._here), *leaf.shape))
            return leaf[self._run_of[self._here]]

        return jax.tree.map(
            lambda leaf: jax.device_put(place(leaf), self._sharding(PartitionSpec(AXIS))), tree
        )

    def deal_rows(self, rows: np.ndarray) -> jax.Array:
        """`deal` for rows of utterances `[R, ..., B]`, which are cut along B if the batch is.

        Copies of runs that fill up the last device get rows of -1: nothing to train on.
        """
        if self.cuts_batch:
            dealt = np.stack(np.split(rows, len(self.devices), axis=-1))
        else:
            dealt = rows[self._run_of]
            dealt.reshape(-1, *rows.shape[1:])[self.num_runs :] = -1
        return jax.device_put(dealt[self._here], self._sharding(PartitionSpec(AXIS)))

    def share(self, tree: PyTree) -> PyTree:
        """Puts the same arrays on every device of this process."""
        return jax.device_put(tree, self._sharding(PartitionSpec()))

    def collect(self, tree: PyTree) -> PyTree:
        """Fetches leaves `[devices, runs, ...]` to the host as `[R, ...]`."""

        def fetch(leaf):
            leaf = np.asarray(leaf)
            if self.cuts_batch:
                return leaf[0]
            leaf = processes.gather_processes(leaf)
            return leaf.reshape(self._run_of.size, *leaf.shape[3:])[: self.num_runs]

        return jax.tree.map(fetch, tree)

    def collect_rows(self, array: jax.Array, axis: int) -> np.ndarray:
        """`collect` for a result `[R, ...]` that is cut along `axis` if the batch is."""
        if not self.cuts_batch:
            return self.collect(array)
        shards = processes.gather_processes(np.asarray(array))
        return np.concatenate(list(shards.reshape(len(self.devices), *array.shape[1:])), axis=axis)

    def compile(self, one_run: Callable, donate: Sequence[int] = ()) -> Callable:
        """Maps `one_run(*per_run, arrays)` over the runs and the devices.

        Args:
          one_run: a function of one run; its last argument is shared by all runs.
          donate: indices of arguments whose buffers the result may take over.

        Returns:
          A function whose arguments are placed by `deal` or `deal_rows`, the last one by `share`.
        """

        def local_runs(*args):
            per_run, arrays = args[:-1], args[-1]
            if self.vmapped:
                return jax.vmap(lambda *run: one_run(*run, arrays))(*per_run)
            return jax.lax.map(lambda run: one_run(*run, arrays), per_run)

        num_args = one_run.__code__.co_argcount
        return jax.pmap(
            local_runs,
            axis_name=AXIS,
            in_axes=(0,) * (num_args - 1) + (None,),
            devices=self.devices,
            donate_argnums=tuple(donate),
        )

    @property
    def _here(self) -> list[int]:
        """Indices in `devices` of those that this process holds."""
        own = jax.process_index()
        return [k for k, device in enumerate(self.devices) if device.process_index == own]

    @property
    def _run_of(self) -> np.ndarray:
        """Which run lies where, `[devices, runs]`; copies of the first fill up the last device."""
        per_device = -(-self.num_runs // len(self.devices))
        places = np.arange(len(self.devices) * per_device) % self.num_runs
        return places.reshape(len(self.devices), per_device)

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(Mesh(np.array([self.devices[k] for k in self._here]), (AXIS,)), spec)


def make_layout(num_runs: int, batch_sizes: Sequence[int], layout: str = "auto") -> Layout:
    """Chooses the layout for the devices at hand.

    Args:
      num_runs: R.
      batch_sizes: utterances a batch, in training and in evaluation.
      layout: "auto", "vmap" or "map". Vmapped runs fill an accelerator; on CPU, as measured, they
        gain nothing and take three times as long to compile.

    Raises:
      UserError: an unknown layout, or a batch that cannot be cut over the devices.
    """
    devices = tuple(jax.devices())
    if layout == "auto":
        layout = "map" if devices[0].platform == "cpu" else "vmap"
    if layout not in ("vmap", "map"):
        raise UserError(f"--config.layout={layout}: wanted auto, vmap or map")
    chosen = Layout(num_runs, devices, layout == "vmap")
    for size in batch_sizes:
        if chosen.cuts_batch and size % len(devices):
            raise UserError(
                f"a batch of {size} cannot be cut over {len(devices)} devices; make it a multiple, "
                f"or train at least {len(devices)} runs (folds x seeds)"
            )
    return chosen
