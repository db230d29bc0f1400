"""MkDocs: the README and an API reference become pages of the site.

The reference has a page for each room of cmarr_jax/, made from the docstrings of its modules.
Links to files of the checkout that are no pages become plain text.
"""

import os
import re

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARY = "cmarr_jax"


def on_config(config):
    """Adds the reference to the menu."""
    pages = [{name: file} for name, file, _ in reference()]
    config.nav = [*config.nav, {"API reference": pages}]
    return config


def on_files(files, config):
    from mkdocs.structure.files import File

    with open(os.path.join(_ROOT, "README.md"), encoding="utf-8") as f:
        files.append(File.generated(config, "readme.md", content=f.read()))
    for _, name, content in reference():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, page, **_):
    if page.file.src_uri == "readme.md":
        markdown = markdown.replace("](docs/", "](")
        return re.sub(r"\[([^\]]+)\]\(([^)#]+)[^)]*\)", _plain_if_outside, markdown)
    markdown = markdown.replace("](../README.md", "](readme.md")
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"`\1`", markdown)


def _plain_if_outside(link):
    """A link of the README to a file of the checkout that is no page of the site."""
    text, target = link.groups()
    return f"`{text}`" if os.path.exists(os.path.join(_ROOT, target)) else link.group()


def reference():
    """(room, file of its page, the page's text) for the library's top and each folder below."""
    pages = []
    for folder, folders, files in os.walk(os.path.join(_ROOT, _LIBRARY)):
        folders.sort()
        names = [f[:-3] for f in sorted(files) if f.endswith(".py") and not f.startswith("__")]
        if not names:
            continue
        room = os.path.relpath(folder, _ROOT).replace(os.sep, ".")
        parts = [f"# {room}\n"]
        if _says(os.path.join(folder, "__init__.py")):
            parts.append(f"::: {room}\n    options: {{members: [], show_root_heading: false}}\n")
        parts += [f"::: {room}.{name}\n" for name in names]
        pages.append((room, f"api/{room}.md", "\n".join(parts)))
    return pages


def _says(file):
    """Whether a package's own file has a docstring."""
    with open(file, encoding="utf-8") as f:
        return f.read().lstrip().startswith('"""')
