"""A model's files from the Hugging Face hub, or from what its client keeps on this machine.

Of a model's revisions the main branch comes first. Where it holds no weights that are read, its
automatic conversions do: `refs/convert/safetensors`, then the open pull requests of the hub's own
conversion bot (https://huggingface.co/docs/safetensors/convert-weights).
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import huggingface_hub
from huggingface_hub import constants, errors

from cmarr_jax.errors import UserError
from cmarr_jax.extract import checkpoint

_MAIN = "main"
_CONVERTED = "refs/convert/safetensors"
_PROPOSED = "refs/pr/"
_BOT = "SFconvertbot"
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REMEDY = (
    f"wanted one of {', '.join(checkpoint.FORMS)}: name a revision that has one, NAME@REVISION, or "
    "convert the model with the library that made it and give the folder"
)


class Found(NamedTuple):
    """A model on this machine."""

    name: str  # NAME@COMMIT, which finds the same files again
    folder: str  # of its snapshot
    said: str  # where it is from, one line
    as_asked: bool  # whether it is of the revision that was asked for, and the hub's latest


class _NoWeightsError(Exception):
    """A revision has no weights that are read; the text says what it has."""


def fetch(model: str, files: tuple[str, ...]) -> Found:
    """Downloads what is not yet on this machine.

    Args:
      model: NAME, or NAME@REVISION with a branch, a tag, a commit or `refs/pr/N`.
      files: what is taken besides the weights, where it is there.

    Raises:
      UserError: there is no such model, it is not to be had, or it has no weights that are read.
    """
    name, at, revision = model.partition("@")
    if at and not _REVISION.fullmatch(revision):
        raise UserError(
            f"{model}: {revision!r} is no revision; wanted NAME@ and a branch, a tag, a commit or "
            "refs/pr/N"
        )
    if _COMMIT.fullmatch(revision) and (kept := _on_this_machine(name, revision, files)):
        return kept  # a commit never changes
    try:
        return _from_hub(name, revision, files)
    except UserError:
        raise
    except _NoWeightsError as e:
        raise UserError(f"{model}: {e}; {_REMEDY}") from None
    except Exception as e:  # the hub's client raises its transport's exceptions as they come
        if not isinstance(e, errors.RevisionNotFoundError | errors.HFValidationError):
            kept = _on_this_machine(name, revision, ("config.json",))
            if kept and isinstance(e, errors.OfflineModeIsEnabled):
                return kept
            if kept:
                said = f"{kept.said}, as it is on this machine; the hub was asked: {_line(e)}"
                return kept._replace(said=said, as_asked=False)
        raise _refusal(model, e) from None


def _from_hub(name: str, revision: str, files: tuple[str, ...]) -> Found:
    try:
        return _download(name, revision or _MAIN, files)
    except _NoWeightsError as e:
        if revision:
            raise
        for converted in _conversions(name):
            try:
                found = _download(name, converted, files)
            except _NoWeightsError:
                continue
            said = f"{e}; read from its automatic conversion, {found.said}"
            return found._replace(said=said, as_asked=False)
        raise _NoWeightsError(f"{e}, and there is no automatic conversion") from None


def _download(name: str, revision: str, files: tuple[str, ...]) -> Found:
    """The files of a revision; of several forms of weights one alone."""
    siblings = huggingface_hub.HfApi().model_info(name, revision=revision).siblings or []
    names = [file.rfilename for file in siblings]
    form = checkpoint.find(names)
    if form is None or "config.json" not in names:
        others = [n for n in names if n.endswith(checkpoint.OTHERS)]
        has = f" (it has {', '.join(others[:3])})" if others else ""
        what = "weights that are read" if form is None else "config.json"
        raise _NoWeightsError(f"{revision} holds no {what}{has}")
    # A branch that was asked for by its name is found again without a network.
    wanted = [*files, form]
    folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted)
    if shards := checkpoint.shards(os.path.join(folder, form)):
        commit = os.path.basename(folder)
        huggingface_hub.snapshot_download(name, revision=commit, allow_patterns=shards)
    return _found(name, folder, revision)


def _conversions(name: str) -> Iterator[str]:
    api = huggingface_hub.HfApi()
    try:
        yield from (r.ref for r in api.list_repo_refs(name).converts if r.ref == _CONVERTED)
        # Anybody can open a pull request under the bot's title, nobody under its name.
        proposals = api.get_repo_discussions(
            name, author=_BOT, discussion_type="pull_request", discussion_status="open"
        )
        numbers = [p.num for p in proposals if p.is_pull_request and p.author == _BOT]
        yield from (f"{_PROPOSED}{number}" for number in sorted(numbers, reverse=True))
    except errors.HfHubHTTPError:  # discussions may be switched off
        return


def _on_this_machine(name: str, revision: str, files: tuple[str, ...]) -> Found | None:
    """Of what the hub's client has kept, the revision that the hub would give, if it is whole.

    That is: with its weights, and with those of `files` that the hub is known to have.
    """
    for ref in (revision,) if revision else (_MAIN, _CONVERTED, *_proposals_kept(name)):
        try:
            folder = huggingface_hub.snapshot_download(
                name, revision=ref, local_files_only=True, allow_patterns=[*files]
            )
        except (errors.LocalEntryNotFoundError, errors.HFValidationError):
            continue
        if _is_whole(folder):
            return _found(name, folder, ref)
    return None


def _proposals_kept(name: str) -> Iterator[str]:
    """Pull requests that were downloaded once, the newest first."""
    try:
        repos = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (errors.CacheNotFound, ValueError):
        return
    kept = {
        ref
        for repo in repos
        if (repo.repo_id, repo.repo_type) == (name, "model")
        for revision in repo.revisions
        for ref in revision.refs
        if re.fullmatch(_PROPOSED + "[0-9]+", ref)
    }
    yield from sorted(kept, key=lambda ref: -int(ref.removeprefix(_PROPOSED)))


def _is_whole(folder: str) -> bool:
    names = os.listdir(folder)
    form = checkpoint.find(names)
    if form is None or "config.json" not in names:
        return False
    try:
        shards = checkpoint.shards(os.path.join(folder, form))
    except UserError:
        return False
    return all(os.path.exists(os.path.join(folder, name)) for name in (form, *shards))


def _found(name: str, folder: str, revision: str) -> Found:
    commit = os.path.basename(folder)
    said = f"commit {commit[:12]}" if revision == commit else f"{revision}, commit {commit[:12]}"
    return Found(f"{name}@{commit}", folder, said, as_asked=True)


def _refusal(model: str, e: Exception) -> UserError:
    """What the hub's client says, as one line with a remedy."""
    name, _, revision = model.partition("@")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    elsewhere = f"where there is a network run {command} and give the folder that it names"
    status = e.response.status_code if isinstance(e, errors.HfHubHTTPError) else None
    if isinstance(e, errors.HFValidationError):
        said = (
            "no such folder, and no name on the Hugging Face hub; wanted a folder with config.json "
            "and weights, or a name such as facebook/wav2vec2-base"
        )
    elif isinstance(e, errors.RevisionNotFoundError):
        said = f"the hub has no revision {revision!r} of it; wanted a branch, tag or commit of it"
    elif isinstance(e, errors.OfflineModeIsEnabled):
        said = (
            "no such folder, not on this machine, and HF_HUB_OFFLINE is set; unset it, or "
            + elsewhere
        )
    elif isinstance(e, errors.GatedRepoError) or status == 403:
        said = (
            f"its owners give access on demand: ask at https://huggingface.co/{name}, then run "
            "hf auth login or set HF_TOKEN"
        )
    elif isinstance(e, errors.RepositoryNotFoundError) or status in (401, 404):
        said = (
            "no such folder, and the Hugging Face hub has no such model; check the spelling, and "
            "for a private one run hf auth login or set HF_TOKEN"
        )
    elif status:
        said = f"the Hugging Face hub answers with {status} ({_line(e)}); try again later"
    elif "Consistency check failed" in str(e):
        said = f"the download broke off ({_line(e)}); give the same command again"
    elif isinstance(e, OSError) and e.errno and not isinstance(e, ConnectionError | TimeoutError):
        said = (
            f"{e.filename or constants.HF_HUB_CACHE}: {e.strerror}, while it was downloaded; "
            "HF_HOME may name another place"
        )
    else:
        said = (
            f"no such folder, not on this machine, and not to be had from the Hugging Face hub "
            f"({_line(e)}); check the network and HF_ENDPOINT and try again, or {elsewhere}"
        )
    return UserError(f"{model}: {said}")


def _line(e: Exception) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
