"""What one command trains: a table of sweeps, each in its own folder; often only one sweep."""

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import groups
from cmarr_jax.results import rows
from cmarr_jax.workdir import files, status
from cmarr_jax.workdir.ownership import WorkDir

_WANTED = "wanted pairs of a name and an argument, such as (('base','cmarr'),('mmin','mmin'))"
_TAKEN = {name for key, name in vars(files).items() if key.isupper()} | {"lock", "config"}


def check_members(members: Any) -> None:
    """Refuses what does not name the sweeps of a table: each by a folder and a config's argument.

    Raises:
      UserError: says which entry is odd.
    """
    if not isinstance(members, list | tuple):
        raise UserError(f"--config.members={members!r}: {_WANTED}")
    names = []
    for pair in members:
        if not isinstance(pair, list | tuple) or [type(x) for x in pair] != [str, str]:
            shown = f"{pair!r} is no such pair"
            if isinstance(pair, str):
                shown += "; of a single one, mind the last comma: (('base','cmarr'),)"
            raise UserError(f"--config.members: {shown}; {_WANTED}")
        name = pair[0]
        if not name.strip() or name in (".", "..") or any(c in name for c in (os.sep, "\0")):
            raise UserError(f"--config.members: {name!r} cannot name a folder; {_WANTED}")
        if name in _TAKEN:
            raise UserError(
                f"--config.members: {name!r} is a file of every work directory; take another name"
            )
        if name in names:
            raise UserError(f"--config.members: {name!r} names two; give each a name of its own")
        names.append(name)


class Table:
    """The sweeps of one command; a context manager that unlocks the table's folder at the end.

    Attributes:
      workdir: of the table; of a single sweep it is the sweep's own.
      members: the sweeps' folders, in the table's order.
      teachers: the folder of the earlier stages' models.
    """

    def __init__(self, folder: str, config: ConfigDict, members: Mapping[str, ConfigDict]):
        """`members`: name -> config of each sweep; empty = `config` is that of the single sweep."""
        self.workdir = WorkDir(folder, config)
        self.members = [WorkDir(os.path.join(folder, n), c) for n, c in members.items()]
        self.members = self.members or [self.workdir]
        self.teachers = config.teachers or os.path.join(folder, files.TEACHERS)
        self._ended: set[str] = set()  # folders
        self._held = contextlib.ExitStack()
        self._opened = False

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *error) -> None:
        self._held.close()

    @property
    def is_ended(self) -> bool:
        """Whether nothing is left to train.

        Raises:
          UserError: another config owns one of the folders.
        """
        return all(each.is_ended for each in (self.workdir, *self.members))

    def check_corpus(self) -> None:
        """Refuses to go on beside results of another corpus than the pack now holds.

        Raises:
          UserError: names the folder and the pack.
        """
        prints: dict[str, str] = {}
        for each in self.members:
            pack, corpus = status.corpus_of(each.folder)
            if not corpus or not each.is_ended or not os.path.isdir(pack):
                continue  # a finished sweep may be looked at without its pack
            if pack not in prints:
                prints[pack] = pack_lib.fingerprint_at(pack)
            if prints[pack] != corpus:
                raise UserError(
                    f"{each.folder}: its results are of corpus {corpus}, but the pack {pack} is "
                    f"now {prints[pack]}; put that pack back, or name a new --workdir"
                )

    def next_group(self) -> list[WorkDir]:
        """The first sweep that has not ended, and all that one program trains together with it.

        Empty if all have ended. Also joins the results of the sweeps that have.
        """
        self._ended |= {each.folder for each in self.members if each.is_ended}
        missing = [each for each in self.members if each.folder not in self._ended]
        if self.members != [self.workdir]:
            self._join(len(missing))
        group = groups.alike(missing) if missing else []
        if group and self.members != [self.workdir]:
            names = ", ".join(each.name for each in group)
            print(f"[{len(self._ended) + 1}/{len(self.members)}] {names}", file=sys.stderr)
        return group

    def _join(self, num_missing: int) -> None:
        done = [each.folder for each in self.members if each.folder in self._ended]
        if not done:  # a mistake in a config leaves nothing behind
            return
        if not self._opened:
            self._held.enter_context(self.workdir.opened())
            self._opened = True
        rows.join(self.workdir.folder, done, missing=num_missing)
