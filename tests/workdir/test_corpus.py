"""Results keep the fingerprint of their corpus, and no two corpora of one pack are mixed."""

import json

import pytest

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.errors import UserError
from cmarr_jax.experiment.table import Table
from cmarr_jax.results import rows
from cmarr_jax.workdir import status
from tests import tiny
from tests.conftest import write_pack

HEADER = "corpus,system,variant,protocol,fold,seed,condition,n,war,uar,macro_f1,rec_error\n"


def finished(folder, config, corpus):
    """A folder as a finished sweep of one run leaves it, as far as is read here."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json_best_effort())
    found = {"complete": True, "seconds": 1.0} | ({"corpus": corpus} if corpus else {})
    (folder / "status.json").write_text(json.dumps(found))
    lines = [f"c,{folder.name},default,p,1,0,{c},9,0.5,0.5,0.5,\n" for c in ("t", "st")]
    (folder / "results.csv").write_text(HEADER + "".join(lines))


@pytest.fixture
def table(tmp_path):
    """A table of two members over one pack; makes the given ones finished on given corpora."""
    pack = write_pack(tmp_path / "pack").path
    configs = {name: tiny.config(name, **{"data.pack": pack}) for name in ("cmarr", "augmented")}
    parent = tiny.config(**{"data.pack": pack, "members": tuple((n, n) for n in configs)})

    def make(**corpora):
        for name, corpus in corpora.items():
            finished(tmp_path / "out" / name, configs[name], corpus)
        return Table(str(tmp_path / "out"), parent, configs)

    make.pack, make.out = pack, tmp_path / "out"
    return make


def test_a_pack_made_anew_at_the_same_path_is_noticed(table):
    made = table(cmarr=pack_lib.fingerprint_at(table.pack))
    made.check_corpus()  # the pack that it was trained on
    with open(f"{table.pack}/utterances.csv", "a") as f:
        f.write("\n")
    with pytest.raises(UserError, match=r"out/cmarr: its results are of corpus .*put that pack"):
        made.check_corpus()


def test_results_may_be_looked_at_without_their_pack(table, tmp_path):
    made = table(cmarr="0" * 16)
    (tmp_path / "pack").rename(tmp_path / "elsewhere")
    made.check_corpus()


def test_results_of_older_versions_do_not_say_their_corpus(table):
    made = table(cmarr="", augmented="1" * 16)
    status.check_same_corpus([each.folder for each in made.members])


def test_no_table_is_joined_or_read_of_two_corpora(table):
    made = table(cmarr="0" * 16, augmented="1" * 16)
    folders = [each.folder for each in made.members]
    with pytest.raises(UserError, match=r"augmented: its results are of corpus 1+, those of"):
        rows.join(str(table.out), folders, missing=0)
    assert not (table.out / "results.csv").exists()
    (table.out / "status.json").write_text('{"complete": true, "seconds": 1}')
    (table.out / "results.csv").write_text(HEADER)
    with pytest.raises(UserError, match="was changed in between"):
        rows.read_results(str(table.out))


def test_entries_that_name_packs_of_their_own_may_stand_side_by_side(table):
    made = table(cmarr="0" * 16, augmented="1" * 16)
    file = table.out / "augmented" / "config.json"
    config = json.loads(file.read_text())
    config["data"]["pack"] = "another"
    file.write_text(json.dumps(config))
    status.check_same_corpus([each.folder for each in made.members])
