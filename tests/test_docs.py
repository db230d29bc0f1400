"""The pages of docs/ and the README: links lead somewhere, pointers name code that is there, commands
name modules, fields and arguments that are there, code blocks run, error lines are those that the
code says, and every open point of the paper has its place.
"""

import ast
import glob
import importlib.util
import os
import re
import types

import pytest

from cmarr_jax.config import leaves
from cmarr_jax.data import pipeline
from configs import common, systems
from tests import tiny

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGES = ["README.md", *sorted(glob.glob("docs/*.md", root_dir=ROOT))]


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", read(page), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    prose = re.sub(r"```.*?```", "", read(page), flags=re.S)
    links = [x for x in re.findall(r"\]\(([^)]+)\)", prose) if not x.startswith("http")]
    for link in links:
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, target)), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_stands_in_the_menu_and_on_the_first_page():
    menu = re.findall(r"- (?:\w+: )?(\w+\.md)$", read("mkdocs.yml"), re.M)
    pages = {os.path.basename(p) for p in PAGES if p != "README.md"}
    assert set(menu) == pages | {"readme.md"} and len(menu) == len(set(menu))
    linked = re.findall(r"\]\((\w+\.md)\)", read("docs/index.md"))
    assert set(linked) == pages - {"index.md"}


def all_fields():
    """Names of the fields of the defaults and of every system's preset."""
    configs = [common.with_variants(common.get_config(), name) for name in systems.PRESETS]
    return {field for c in configs for field, _ in leaves(c.to_dict())}


def test_commands_name_modules_fields_and_arguments_that_are_there():
    text = "\n".join(map(read, PAGES))
    fields, sections = all_fields(), set()
    for field in set(re.findall(r"--config\.([a-z][\w.]*\w)", text)):
        assert field in fields, field
        sections.add(field.split(".")[0])
    assert sections >= {"data", "protocol", "model"}
    modules = set(re.findall(r"-m (cmarr_jax[\w.]*)", text))
    assert len(modules) > 5
    for module in modules:
        place = os.path.join(ROOT, *module.split("."))
        assert os.path.exists(f"{place}.py") or os.path.exists(f"{place}/__main__.py"), module
    for script in set(re.findall(r"(?<![\w/])(?:configs|benchmarks)/[\w/]+\.py", text)):
        assert os.path.exists(os.path.join(ROOT, script)), script
    arguments = set(re.findall(r"(?<![\w/])configs/\w+\.py:([^\s`\"|)]+)", text)) - {
        "NAME",
        "pooled,NAME",
        "late_fusion",
    }
    assert len(arguments) > 8
    for argument in arguments:
        common.with_variants(common.get_config(), argument)


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
    by_test_readme = {"README.md", "docs/systems.md", "docs/python.md"}
    for page in set(PAGES) - others - by_test_readme:
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


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", os.path.join(ROOT, "docs", "hooks.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_module(hooks):
    files = glob.glob("cmarr_jax/**/[a-z]*.py", root_dir=ROOT, recursive=True)
    modules = {file.removesuffix(".py").replace("/", ".") for file in files}
    text = "\n".join(text for *_, text in hooks.reference())
    assert modules <= set(re.findall(r"^::: ([\w.]+)$", text, re.M))


def test_the_readme_as_a_page_links_to_pages_alone(hooks):
    """MkDocs refuses a site with any other link."""
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="readme.md"))
    made = hooks.on_page_markdown(read("README.md"), page)
    links = [link for link in re.findall(r"\]\(([^)#]+)", made) if not link.startswith("http")]
    assert len(links) > 3
    for link in links:
        assert os.path.exists(os.path.join(ROOT, "docs", link)), link


def open_points():
    """number -> the text of its section."""
    sections = re.findall(r"^### (\d+)\. (.*?)(?=^##|\Z)", read("docs/open_points.md"), re.M | re.S)
    return {int(number): text for number, text in sections}


def test_every_mark_in_the_code_has_its_open_point():
    points = open_points()
    assert list(points) == list(range(1, 32))
    marks = 0
    for file in glob.glob("c*/**/*.py", root_dir=ROOT, recursive=True):  # cmarr_jax and configs
        for line in read(file).splitlines():
            for number in re.findall(r"\(#(\d+)\)", line):
                marks += 1
                field = re.match(r"\s*[\w.]*?(\w+) = ", line)
                assert int(number) in points, (file, line)
                assert not field or field[1] in points[int(number)], (file, line)
    assert marks > 25


def test_open_points_state_the_defaults_and_fields_that_there_are():
    fields, stated = dict(leaves(common.get_config().to_dict())), 0
    for number, text in open_points().items():
        for kind in ("Paper", "Open", "Here"):
            assert f"- **{kind}:** " in text, (number, kind)
        here, _, other = text.partition("- **Else:**")
        for part, is_default in ((here, True), (other, False)):
            for field, value in re.findall(r"`([a-z_.]+[a-z])=([^`]+)`", part):
                assert field in fields, (number, field)
                if not isinstance(fields[field], str):
                    value = ast.literal_eval(value)
                assert (value == fields[field]) == is_default, (number, field, value)
                stated += 1
    assert stated > 70
