"""Video as a source of features: faces through a vision model, or ready-made features."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.data import values
from cmarr_jax.data.importers import stores
from cmarr_jax.data.importers.assemble import unread as count_unread
from cmarr_jax.errors import UserError
from cmarr_jax.extract import denseface, pretrained
from cmarr_jax.extract import faces as faces_lib
from cmarr_jax.extract.encoder import open_encoder
from cmarr_jax.extract.models import clip, dinov2, vit
from cmarr_jax.extract.mtcnn import Mtcnn
from cmarr_jax.extract.pictures import open_pictures
from cmarr_jax.extract.source import Loaded, Source, Utterance

MARGIN = 0.2  # around a face for such a model, part of the box' longer side
VERSION = 1  # of this file and `faces`; raise it with every change that changes the numbers
FAMILIES = {"vit": vit, "clip": clip, "clip_vision_model": clip, "dinov2": dinov2}
_CHUNK = 32  # faces in a call of Denseface, so that one shape is compiled
_CPU_CHUNK, _ACCELERATOR_CHUNK = 8, 64  # in a call of a vision model
_CLIPS = 16  # in a batch; each is encoded alone, so that it does not depend on the others
_AHEAD = 4  # clips whose faces wait for the network: those of half a minute take 50 MB each


def source(
    *,
    model: str | None = None,
    features: str | None = None,
    faces: str | None = None,
    fps: float = 10.0,
    margin: float | None = None,
    size: int | None = None,
    layers: str = "last",
    dtype: str = "float32",
) -> Source:
    """The video modality, one vector a sampled frame that shows a face.

    Args:
      model: a folder with a Hugging Face vision model of `FAMILIES` (`config.json`, weights,
        `preprocessor_config.json`), or its name on the hub; or a file with Denseface's weights,
        see `denseface`.
      features: ready features instead: a folder with ID.npy, or an .h5 file; rows of zeros are
        frames without a face and are left out.
      faces: a folder of cropped faces: for each utterance a folder ID of pictures, or ID.npy;
        None = faces are detected in the videos.
      fps: frames a second to look at.
      margin: see `faces.of_video`; None = `MARGIN`, for Denseface the box as it is.
      size: side in pixels of what goes into a vision model; None = its own.
      layers: hidden states to keep of the class token, one of `layers.FORMS`; Denseface has but
        the last.
      dtype: of the network's computation, "float32" or "bfloat16".

    Raises:
      UserError: neither or both of `model` and `features`; an option that does not go with the
        others or is out of its range; a model or file that is not there or does not fit.
    """
    if (model is None) == (features is None):
        raise UserError(
            "--modalities: video wants either --video-model=MODEL, for the faces in videos or in "
            "--faces=FOLDER, or ready features, --video-features=FOLDER"
        )
    if not fps > 0:
        raise UserError(f"--video-fps={fps}: wanted more than 0")
    if margin is not None and not 0 <= margin <= 2:
        raise UserError(f"--face-margin={margin}: wanted 0 to 2, a part of the face's longer side")
    for flag, value in (("--face-margin", margin), ("--face-size", size)):
        if value is not None and features is not None:
            raise UserError(f"{flag}={value}: ready features have no faces; leave it out")
    if margin is not None and faces is not None:
        raise UserError(f"--face-margin={margin}: the faces of --faces are cropped; leave it out")
    if features is not None:
        return _ready(features)
    if faces is not None and not os.path.isdir(faces):
        raise UserError(f"--faces={faces}: no such folder")
    if os.path.isfile(model) or model.endswith(denseface.SUFFIXES):
        network = _denseface(model, size, layers, dtype)
    else:
        network = _vision(model, size, layers, dtype)
    return _faces_through(network, faces, fps, network.margin if margin is None else margin)


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


class _Network(NamedTuple):
    """What becomes of the faces of a clip."""

    dim: int
    chunk: int  # faces in a call
    margin: float | None  # around a face, if none is asked for
    look: Callable[[np.ndarray], np.ndarray] | None  # that of `faces.of_video`
    encode: Callable[[np.ndarray], np.ndarray]  # [chunk, ...] -> [chunk, dim] float32
    recipe: dict[str, Any]


def _vision(model: str, size: int | None, layers: str, dtype: str) -> _Network:
    encoder = open_encoder(model, FAMILIES, layers=layers, dtype=dtype)
    pictures = open_pictures(encoder.folder, size)
    patch, trained = encoder.module.patch_size, encoder.module.image_size
    if pictures.side % patch:
        raise UserError(
            f"--face-size={pictures.side}: wanted a multiple of {patch}, {model}'s patches"
        )
    # DINOv2 is published with positions for large pictures and a processor for smaller ones.
    if size is None and pictures.side != trained and encoder.recipe["encoder"] != "dinov2":
        raise UserError(
            f"{encoder.folder}: preprocessor_config.json makes pictures of {pictures.side} pixels "
            f"and config.json describes a model for {trained}; give --face-size={trained}"
        )
    recipe = encoder.recipe | {"version": VERSION, "pictures": pictures.recipe}
    return _Network(
        encoder.dim,
        _CPU_CHUNK if jax.default_backend() == "cpu" else _ACCELERATOR_CHUNK,
        MARGIN,
        pictures.resize,
        lambda images: encoder.forward(images, pictures.scale, pictures.shift),
        recipe if size is None else recipe | {"size": size},
    )


def _denseface(file: str, size: int | None, layers: str, dtype: str) -> _Network:
    if size is not None:
        raise UserError(f"--face-size={size}: {file} is Denseface's, which wants faces of 64")
    if layers != "last":
        raise UserError(f"--layers=video={layers}: {file} is Denseface's, give --layers=video=last")
    weights = denseface.read(file)
    recipe = {
        "version": VERSION,
        "network": "DenseNet-BC",
        "weights": _hash(file),
        "dtype": dtype,
    }
    dim = weights.variables["params"]["classes"]["kernel"].shape[0]
    return _Network(dim, _CHUNK, None, None, _encoder(weights, dtype), recipe)


def _faces_through(
    network: _Network, faces: str | None, fps: float, margin: float | None
) -> Source:
    if faces is not None:
        recipe = {"faces": _hash(faces)}
        load, amount = _load_cropped(faces, network.look)
    else:
        Mtcnn()  # reports a missing package now, not at the first clip
        recipe = {"fps": fps, "margin": margin, **faces_lib.recipe()}
        load, amount = _load_video(fps, margin, network.look)
    return Source(
        modality="video",
        dim=network.dim,
        unit="frames",
        recipe=network.recipe | recipe,
        amount=amount,
        load=load,
        bucket=lambda item: network.chunk,
        batch_size=lambda bucket: 1,  # finding faces takes seconds a clip: a killed run loses one
        encode=lambda bucket, items: [_in_chunks(item, bucket, network.encode) for item in items],
        ahead=_AHEAD,
    )


def _load_cropped(folder: str, look: Callable | None):
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
            return _found(faces_lib.of_pictures(path, look))
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


def _load_video(fps: float, margin: float | None, look: Callable | None):
    of_thread = threading.local()  # OpenCV's networks are not for two threads at once

    def load(utterance: Utterance) -> Loaded:
        if utterance.video is None or not os.path.exists(utterance.video):
            return Loaded("missing_file", None, utterance.video or "no video")
        if not hasattr(of_thread, "detector"):
            of_thread.detector = Mtcnn()
        try:
            found = faces_lib.of_video(
                utterance.video,
                start=utterance.start,
                end=utterance.end,
                side=utterance.side,
                fps=fps,
                detector=of_thread.detector,
                margin=margin,
                look=look,
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
        detail = f"{short}; {detail}" if detail else short
        return Loaded("cut_short", np.stack(found.images), detail)
    return Loaded("ok", np.stack(found.images), detail)


def _encoder(weights: denseface.Weights, dtype: str):
    """Faces `[n, 64, 64]` uint8 -> features `[n, D]` float32."""
    compute_dtype = jnp.dtype(dtype)
    network = weights.network.clone(dtype=compute_dtype)
    variables = jax.device_put(weights.variables)

    @jax.jit
    def encode_chunk(variables: Any, images: jax.Array) -> jax.Array:
        normalised = (images[..., None].astype(jnp.float32) - weights.mean) / weights.std
        features, _ = network.apply(variables, normalised)
        return features

    def encode(images: np.ndarray) -> np.ndarray:
        with pretrained.precision(compute_dtype):
            return np.asarray(encode_chunk(variables, images))

    return encode


def _in_chunks(
    images: np.ndarray, size: int, encode: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """`encode(images)`, in chunks of one size, the last filled up with black pictures."""
    chunks = []
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        padded = np.zeros((size, *images.shape[1:]), np.uint8)
        padded[: len(chunk)] = chunk
        chunks.append(encode(padded)[: len(chunk)])
    return np.concatenate(chunks)


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
