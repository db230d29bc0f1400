"""The pages of docs/ and the README: links lead somewhere, pointers name code that is there, code
blocks run, and error lines are those that the code says.
"""

import ast
import glob
import importlib.util
import os
import re
import types

import pytest

from cmarr_jax.data import pipeline
from tests import tiny

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGES = ["README.md", *sorted(glob.glob("docs/*.md", root_dir=ROOT))]


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", read(page), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    prose = re.sub(r"```.*?```", "", read(page), flags=re.S)
    links = [x for x in re.findall(r"\]\(([^)]+)\)", prose) if not x.startswith("http")]
    for link in links:
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, target)), link
        assert not anchor or anchor in anchors(target), link


def names(tree, prefix=""):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
            yield from names(node, f"{prefix}{node.name}.")


def test_every_pointer_names_code_that_is_there():
    pointers = {p for page in PAGES for p in re.findall(r"`([\w/]+\.py):([\w.]+)`", read(page))}
    assert len(pointers) > 30
    for file, name in pointers:
        assert name in set(names(ast.parse(read(file)))), (file, name)


def test_the_equations_are_all_there():
    found = {
        int(n)
        for x in re.findall(r"Eq\. ([\d, ]+)", read("docs/model.md"))
        for n in x.replace(" ", "").split(",")
        if n
    }
    assert found == set(range(1, 15))


def test_code_blocks_run_page_after_page(tmp_path, monkeypatch):
    """In the order in which the pages build on each other: the pack first, then what reads it."""
    monkeypatch.chdir(tmp_path)
    ran = 0
    for page in ("packs", "model", "protocol", "prediction"):
        namespace = {}
        if page == "prediction":
            corpus = pipeline.load(pack="PACK", loader="numpy", length=4)
            tiny.export_model("DIR/model", corpus, tiny.config("full_modality"), folds=2)
        for block in re.findall(r"```python\n(.*?)```", read(f"docs/{page}.md"), flags=re.S):
            exec(compile(block, page, "exec"), namespace)
            ran += 1
    others = {"docs/packs.md", "docs/model.md", "docs/protocol.md", "docs/prediction.md"}
    for page in set(PAGES) - others - {"README.md"}:
        assert "```python" not in read(page), page
    assert ran >= 5


def said():
    """Patterns of all strings in the code, with anything in place of an f-string's values."""
    patterns = []
    for file in ["train.py", *glob.glob("cmarr_jax/**/*.py", root_dir=ROOT, recursive=True)]:
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    re.escape(part.value) if isinstance(part, ast.Constant) else "(.+)"
                    for part in node.values
                ]
                patterns.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                patterns.append(re.escape(node.value))
    return [p for p in patterns if len(p.replace("(.+)", "")) > 20]


def test_error_lines_are_those_that_the_code_says():
    lines = re.findall(r"^- `(.*)`$", read("docs/troubleshooting.md"), re.M)
    patterns = [re.compile(p) for p in said()]
    assert len(lines) > 15
    for line in lines:
        assert any(p.fullmatch(line) for p in patterns), line


def test_the_readme_as_a_page_links_to_pages_alone():
    """MkDocs refuses a site with any other link."""
    spec = importlib.util.spec_from_file_location("hooks", os.path.join(ROOT, "docs", "hooks.py"))
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="readme.md"))
    made = hooks.on_page_markdown(read("README.md"), page)
    links = [link for link in re.findall(r"\]\(([^)#]+)", made) if not link.startswith("http")]
    assert len(links) > 3
    for link in links:
        assert os.path.exists(os.path.join(ROOT, "docs", link)), link
