"""The hub's own client against a stand-in for the hub: `stand_in.py`."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")

from huggingface_hub import constants, file_download

from cmarr_jax.cli.bar import Bars
from cmarr_jax.data import pack
from cmarr_jax.errors import UserError
from cmarr_jax.extract import __main__ as command
from cmarr_jax.extract import checkpoint, pretrained
from tests.extract import releases, stand_in
from tests.extract.test_pytorch_file import write_sequence

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAME = "facebook/wav2vec2-base"
FILES = ("model.safetensors", "pytorch_model.bin")


@pytest.fixture(scope="module")
def server():
    hub = stand_in.Hub()
    yield hub
    hub.close()


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The stand-in, empty, and the client told of it as HF_ENDPOINT and HF_HOME would."""
    address = server.address
    server.__dict__.update(
        models={}, proposals={}, moved={}, gated=set(), broken=set(), failing=0,
        asked=type(server.asked)(),
    )  # fmt: skip
    point_client_to(monkeypatch, address, str(tmp_path / "cache"))
    return server


def point_client_to(monkeypatch, address, cache):
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)


@pytest.fixture
def wav2vec2():
    return stand_in.files_of("wav2vec2")


def refusal(model):
    with pytest.raises(UserError) as error:
        pretrained.folder(model)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{model}: ")
    return str(error.value)


def same_tensors(folder, files):
    made = checkpoint.read(pretrained.weights(folder))
    wanted = stand_in.tensors_of(files)
    assert made.keys() == wanted.keys()
    assert all((made[name] == wanted[name]).all() for name in wanted)


def without_weights(files):
    return {k: v for k, v in files.items() if k != "model.safetensors"}


FORMS = {
    "safetensors": lambda files, folder: files,
    "safetensors shards": lambda files, folder: stand_in.in_shards(files, folder, FILES[0]),
    "zip": stand_in.as_bin,
    "sequence": lambda files, folder: stand_in.as_bin(files, folder, write_sequence),
    "bin shards": lambda files, folder: stand_in.in_shards(files, folder, FILES[1]),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_the_main_branch_are_read_in_each_of_their_forms(hub, wav2vec2, tmp_path, form):
    hub.models[NAME] = {"main": FORMS[form](wav2vec2, str(tmp_path))}
    same_tensors(pretrained.folder(NAME), wav2vec2)


def test_of_several_forms_one_alone_is_downloaded(hub, wav2vec2, tmp_path):
    forms = [f(wav2vec2, str(tmp_path)) for f in FORMS.values()]
    hub.models[NAME] = {"main": {k: v for form in forms[::-1] for k, v in form.items()}}
    hub.models[NAME]["main"]["README.md"] = b"# wav2vec2"
    hub.models[NAME]["main"]["run.py"] = b"raise SystemExit"
    for gone, got in [
        ((), "model.safetensors"),
        (("model.safetensors",), "model-00001-of-00002.safetensors"),
        (("model.safetensors.index.json",), "pytorch_model.bin"),
        (("pytorch_model.bin",), "pytorch_model-00001-of-00002.bin"),
    ]:
        for name in gone:
            del hub.models[NAME]["main"][name]
        hub.asked.clear()
        pretrained.folder(NAME)
        weights = [n for n in hub.got() if n.endswith((".safetensors", ".bin"))]
        assert weights == [got, *([got.replace("00001-", "00002-")] * ("00001" in got))]
        assert {"README.md", "run.py"} & {*hub.got()} == set()


def test_a_conversion_is_read_where_the_main_branch_has_no_weights(hub, wav2vec2, capsys):
    bare = without_weights(wav2vec2) | {"tf_model.h5": b"\x89HDF"}
    hub.models[NAME] = {"main": bare, "refs/convert/safetensors": wav2vec2}
    same_tensors(pretrained.folder(NAME), wav2vec2)
    pinned = pretrained.pinned(NAME, Bars(quiet=True))
    commit = hub.commit(NAME, "refs/convert/safetensors")
    assert pinned == f"{NAME}@{commit}"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"warning: {NAME}: main holds no weights that are read (it has tf_model.h5); read from its "
        f"automatic conversion, refs/convert/safetensors, commit {commit[:12]}"
    )


def test_the_bots_open_pull_request_is_read_and_nobody_elses(hub, wav2vec2, tmp_path):
    bare = without_weights(wav2vec2)
    forged = stand_in.files_of("bert")
    hub.models[NAME] = {
        "main": bare,
        "refs/pr/5": wav2vec2 | {"config.json": b"{}"},
        "refs/pr/2": wav2vec2,
        "refs/pr/3": bare,
        "refs/pr/4": forged,
    }
    hub.proposals[NAME] = [
        (5, stand_in.BOT, "closed", stand_in.TITLE),
        (2, stand_in.BOT, "open", stand_in.TITLE),
        (3, stand_in.BOT, "open", "Another"),
        (4, "mallory", "open", stand_in.TITLE),
    ]
    folder = pretrained.folder(NAME)
    assert os.path.basename(folder) == hub.commit(NAME, "refs/pr/2")
    same_tensors(folder, wav2vec2)
    del hub.models[NAME]["refs/pr/2"], hub.models[NAME]["refs/pr/3"]
    hub.proposals[NAME] = [p for p in hub.proposals[NAME] if p[0] in (4, 5)]
    assert "main holds no weights that are read, and there is no auto" in refusal(NAME)
    assert "NAME@REVISION" in refusal(NAME)


def test_a_conversion_is_not_looked_for_where_main_has_weights(hub, wav2vec2, tmp_path):
    hub.models[NAME] = {
        "main": stand_in.as_bin(wav2vec2, str(tmp_path)),
        "refs/convert/safetensors": wav2vec2,
    }
    assert pretrained.weights(pretrained.folder(NAME)).endswith("pytorch_model.bin")
    assert not any(path.endswith(("/refs", "/discussions")) for path in hub.asked)


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/7", "commit"])
def test_a_revision_is_part_of_the_name(hub, wav2vec2, tmp_path, revision, capsys):
    hub.models[NAME] = {
        "main": stand_in.files_of("bert"),
        "v1.0": wav2vec2,
        "refs/pr/7": wav2vec2,
    }
    asked = hub.commit(NAME, "v1.0") if revision == "commit" else revision
    same_tensors(pretrained.folder(f"{NAME}@{asked}"), wav2vec2)
    commit = hub.commit(NAME, "v1.0" if revision == "commit" else revision)
    assert pretrained.pinned(f"{NAME}@{asked}", Bars()) == f"{NAME}@{commit}"
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"{NAME}@{asked}: ") and f"commit {commit[:12]}" in said
    # What a pack keeps needs no network.
    hub.asked.clear()
    pretrained.folder(f"{NAME}@{commit}")
    assert not hub.asked


def test_a_commit_that_is_here_in_part_is_completed(hub):
    bert = stand_in.files_of("bert")
    hub.models[NAME] = {"main": bert}
    folder = pretrained.folder(NAME)
    os.remove(f"{folder}/vocab.txt")
    assert pretrained.folder(f"{NAME}@{hub.commit(NAME)}") == folder
    assert os.path.exists(f"{folder}/vocab.txt")


def test_a_revision_that_was_asked_for_is_the_only_one(hub, wav2vec2):
    bare = without_weights(wav2vec2)
    hub.models[NAME] = {"main": wav2vec2, "v1": bare, "refs/convert/safetensors": wav2vec2}
    assert "v1 holds no weights that are read" in refusal(f"{NAME}@v1")


@pytest.mark.parametrize("said", ["", "../x", "a/../b", "-x", "a b", "@main"])
def test_what_is_no_revision_reaches_no_network(hub, said):
    assert "no revision" in refusal(f"{NAME}@{said}") and not hub.asked


def test_a_model_that_moved_is_found_by_its_old_name(hub):
    bert = stand_in.files_of("bert")
    hub.models["google-bert/bert-base-uncased"] = {"main": bert}
    hub.moved["bert-base-uncased"] = "google-bert/bert-base-uncased"
    folder = pretrained.folder("bert-base-uncased")
    same_tensors(folder, bert)
    assert len(pretrained.tokenizer(folder, 64)) == 31


def test_the_same_bytes_from_a_folder_and_from_the_hub_have_one_hash(hub, wav2vec2, tmp_path):
    for form, make in FORMS.items():
        name = f"some/{form.replace(' ', '-')}"
        hub.models[name] = {"main": make(wav2vec2, str(tmp_path))}
        copy = str(tmp_path / form)
        shutil.copytree(pretrained.folder(name), copy)
        found = pretrained.hashes(copy)
        assert found == pretrained.hashes(pretrained.folder(name))
        assert sum(n.endswith((".safetensors", ".bin")) for n in found) == 1 + ("shards" in form)
        assert any(n.endswith(".index.json") for n in found) == ("shards" in form)


@pytest.mark.parametrize("revision, form", [
    ("main", "sequence"), ("main", "bin shards"), ("refs/convert/safetensors", "safetensors"),
    ("refs/pr/1", "safetensors shards"),
])  # fmt: skip
def test_offline_what_was_downloaded_is_found(
    hub, wav2vec2, tmp_path, monkeypatch, revision, form, capsys
):
    hub.models[NAME] = {"main": without_weights(wav2vec2)}
    hub.models[NAME][revision] = FORMS[form](wav2vec2, str(tmp_path))
    hub.proposals[NAME] = [(1, stand_in.BOT, "open", stand_in.TITLE)]
    first = pretrained.folder(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pretrained.folder(NAME) == first
    assert pretrained.pinned(NAME, Bars()).endswith(f"@{hub.commit(NAME, revision)}")
    # With the network down, too; and it says so.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.failing = 503
    capsys.readouterr()
    assert pretrained.pinned(NAME, Bars()).endswith(f"@{hub.commit(NAME, revision)}")
    assert "as it is on this machine; the hub was asked: " in capsys.readouterr().err


def test_a_download_that_lacks_a_shard_is_not_taken_for_whole(hub, wav2vec2, tmp_path, monkeypatch):
    hub.models[NAME] = {"main": FORMS["bin shards"](wav2vec2, str(tmp_path))}
    folder = pretrained.folder(NAME)
    os.remove(f"{folder}/pytorch_model-00002-of-00002.bin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not on this machine, and HF_HUB_OFFLINE is set" in refusal(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    same_tensors(pretrained.folder(NAME), wav2vec2)


def test_a_damaged_file_of_the_cache_names_what_to_delete_and_that_helps(hub, wav2vec2):
    hub.models[NAME] = {"main": wav2vec2}
    file = pretrained.weights(pretrained.folder(NAME))
    blob = os.path.realpath(file)
    os.truncate(blob, 3_000)
    with pytest.raises(UserError, match="not a whole safetensors file") as error:
        checkpoint.read(pretrained.weights(pretrained.folder(NAME)))
    assert f"delete {blob}, then the same command downloads it again" in str(error.value)
    os.remove(blob)
    same_tensors(pretrained.folder(NAME), wav2vec2)


def test_an_empty_file_of_the_cache(hub, wav2vec2):
    hub.models[NAME] = {"main": wav2vec2}
    blob = os.path.realpath(pretrained.folder(NAME) + "/config.json")
    os.truncate(blob, 0)
    with pytest.raises(UserError, match=rf"config.json: empty; delete {blob}"):
        pretrained.folder(NAME)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_pointer_in_the_place_of_a_file(hub, wav2vec2, file):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 380\n"
    hub.models[NAME] = {"main": wav2vec2 | {file: pointer}}
    with pytest.raises(UserError, match=rf"{file}: a Git-LFS pointer in the place of the file"):
        pretrained.folder(NAME)


def test_a_download_that_breaks_off_is_one_line_and_goes_on(hub, wav2vec2, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client's pauses
    hub.models[NAME] = {"main": wav2vec2}
    hub.broken.add((NAME, "model.safetensors"))
    refusal(NAME)
    hub.broken.clear()
    same_tensors(pretrained.folder(NAME), wav2vec2)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_out_of_order(hub, wav2vec2, status, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.models[NAME] = {"main": wav2vec2}
    hub.failing = status
    assert f"the Hugging Face hub answers with {status}" in refusal(NAME)


def test_a_name_that_the_hub_does_not_know(hub):
    assert "no such folder, and the Hugging Face hub has no such model" in refusal("bert-bse")


def test_a_model_whose_owners_grant_access(hub, wav2vec2):
    hub.models[NAME] = {"main": wav2vec2}
    hub.gated.add(NAME)
    said = refusal(NAME)
    assert f"ask at https://huggingface.co/{NAME}" in said and "hf auth login" in said


def test_a_revision_that_the_hub_does_not_know(hub, wav2vec2):
    hub.models[NAME] = {"main": wav2vec2}
    pretrained.folder(NAME)
    assert "the hub has no revision 'v9' of it" in refusal(f"{NAME}@v9")


@pytest.mark.parametrize("name", ["./models/bert", "/nowhere/bert", "a/b/c", "-x", "a b"])
def test_what_can_be_no_name_reaches_no_network(hub, name):
    assert "no such folder, and no name on the Hugging Face hub" in refusal(name)
    assert not hub.asked


def test_a_file_in_the_place_of_a_folder(hub, tmp_path):
    (tmp_path / "x").write_text("x")
    assert "a file; wanted the folder of a Hugging Face model" in refusal(str(tmp_path / "x"))


def test_without_a_network(hub, monkeypatch):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{s.getsockname()[1]}"
    for address in (closed, "http://nowhere.invalid"):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        said = refusal(NAME)
        assert "not to be had from the Hugging Face hub" in said and f"hf download {NAME}" in said


def test_offline_without_the_model(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refusal(NAME)
    assert "HF_HUB_OFFLINE is set; unset it" in said and f"hf download {NAME}" in said
    assert not hub.asked


def test_a_full_disk(hub, wav2vec2, monkeypatch):
    hub.models[NAME] = {"main": wav2vec2}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    said = f"{constants.HF_HUB_CACHE}: No space left on device, while it was downloaded; HF_HOME"
    assert said in refusal(NAME)


def readme_commands():
    """The extraction commands of README, `corpus -> arguments`."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        text = f.read().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if "-m cmarr_jax.extract" in line]
    return {words[3]: words[3:] for words in lines}


def large_enough(files):
    """BERT with 512 positions, as README's command wants by default."""
    import safetensors.numpy

    tensors = stand_in.tensors_of(files)
    name = "embeddings.position_embeddings.weight"
    tensors[name] = np.resize(tensors[name], (512, 16))
    config = json.loads(files["config.json"]) | {"max_position_embeddings": 512}
    return files | {
        "model.safetensors": safetensors.numpy.save(tensors),
        "config.json": json.dumps(config).encode(),
    }


@pytest.mark.slow
def test_readmes_commands_as_they_stand_with_the_hub_as_its_pages_show_it(
    server, hub, wav2vec2, tmp_path
):
    """In processes of their own, which know the stand-in by HF_ENDPOINT alone; then offline.

    bert-base-uncased has moved and has both forms, wav2vec2-base has only pytorch_model.bin on its
    main branch and safetensors in the bot's pull request.
    """
    bert = large_enough(stand_in.files_of("bert"))
    both = stand_in.as_bin(bert, str(tmp_path)) | bert
    hub.models["google-bert/bert-base-uncased"] = {"main": both}
    hub.moved["bert-base-uncased"] = "google-bert/bert-base-uncased"
    hub.models[NAME] = {"main": stand_in.as_bin(wav2vec2, str(tmp_path)), "refs/pr/3": wav2vec2}
    hub.proposals[NAME] = [(3, stand_in.BOT, "open", stand_in.TITLE)]
    roots = {
        "IEMOCAP_full_release": releases.iemocap(str(tmp_path)),
        "MSP-IMPROV": releases.msp_improv(str(tmp_path)),
    }
    commands = readme_commands()
    assert sorted(commands) == ["csv", "iemocap", "msp_improv"]
    del commands["csv"]  # which stands for what a reader has
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "JAX_PLATFORMS": "cpu",
    }
    made = {}
    for offline in ("0", "1"):
        for corpus, words in commands.items():
            out = str(tmp_path / f"{corpus}-{offline}")
            place = words.index("--out") + 1
            argv = [roots.get(word, word) for word in words]
            argv[place] = out
            result = subprocess.run(
                [sys.executable, "-m", "cmarr_jax.extract", *argv, "--max-bad", "0.4"],
                cwd=ROOT,
                env=environment | {"HF_HUB_OFFLINE": offline},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert result.returncode == 0, result.stderr
            made[corpus, offline] = pack.read(out)
            commits = {
                "text": f"bert-base-uncased@{hub.commit('google-bert/bert-base-uncased')}",
                "speech": f"{NAME}@{hub.commit(NAME)}",
            }
            assert made[corpus, offline].provenance["models"] == commits
            for name in commits.values():
                model, _, commit = name.partition("@")
                assert f"{model}: main, commit {commit[:12]}\n" in result.stderr
        if offline == "0":
            got = hub.got()
            assert got.count("model.safetensors") == 1 and got.count("pytorch_model.bin") == 1
            hub.asked.clear()
    assert not hub.asked
    # The same models, given as folders.
    for corpus, words in commands.items():
        for modality, kind in (("text", both), ("speech", hub.models[NAME]["main"])):
            for name, content in kind.items():
                releases.write(str(tmp_path / modality / name), content)
        out = str(tmp_path / f"{corpus}-folders")
        argv = [corpus, "--root", roots[words[2]], "--out", out, "--max-bad", "0.4", "--quiet"]
        argv += ["--text-model", str(tmp_path / "text"), "--speech-model", str(tmp_path / "speech")]
        argv += words[words.index("--scenarios") :][:2] if "--scenarios" in words else []
        assert command.main(argv) == 0
        made[corpus, "folders"] = pack.read(out)
        prints = {
            how: {
                m: facts["fingerprint"]
                for m, facts in made[corpus, how].provenance["modalities"].items()
            }
            for how in ("0", "1", "folders")
        }
        assert prints["0"] == prints["1"] == prints["folders"], prints
        for m in ("text", "speech"):
            np.testing.assert_array_equal(
                made[corpus, "0"].features[m], made[corpus, "folders"].features[m]
            )
