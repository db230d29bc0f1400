import os

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import snapshot


def test_a_file_of_the_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert snapshot.path(str(tmp_path), "config.json") == str(tmp_path / "config.json")


def test_a_link_within_the_folder_and_a_linked_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "real").write_text("x")
    (tmp_path / "a" / "name").symlink_to("real")
    (tmp_path / "b").symlink_to("a")
    assert snapshot.path(str(tmp_path / "b"), "name") == str(tmp_path / "b" / "name")


@pytest.mark.parametrize("blob", ["models--x/blobs/1", "blobs/ab/1"])
def test_the_links_of_the_hubs_cache(tmp_path, blob):
    """A snapshot's files lie in the model's blobs, which may lie in those of the whole cache."""
    folder = tmp_path / "models--x/snapshots/c0ffee"
    folder.mkdir(parents=True)
    (tmp_path / blob).parent.mkdir(parents=True)
    (tmp_path / blob).write_text("x")
    (folder / "config.json").symlink_to(os.path.relpath(tmp_path / blob, folder))
    assert snapshot.path(str(folder), "config.json")
    assert snapshot.remedy(f"{folder}/config.json").startswith(f"delete {tmp_path / blob}, then")
    (tmp_path.parent / "secret").write_text("x")
    (folder / "vocab.txt").symlink_to(tmp_path.parent / "secret")
    with pytest.raises(UserError, match=r"vocab.txt: a link that leads out of its folder"):
        snapshot.path(str(folder), "vocab.txt")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "config.json")  # reading it would wait for ever
    with pytest.raises(UserError, match=r"config.json: no regular file"):
        snapshot.path(str(tmp_path), "config.json")


def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(UserError, match="x/y: Not a directory"):
        snapshot.path(str(tmp_path / "x"), "y")


def test_fields_are_read_once(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(UserError, match=r"x.json: not JSON \('b' is there twice\)"):
        snapshot.read_json(str(file))
