"""MkDocs: the README becomes a page of the site; links out of docs/ become plain text there."""

import os
import re

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def on_files(files, config):
    from mkdocs.structure.files import File

    with open(os.path.join(_ROOT, "README.md"), encoding="utf-8") as f:
        files.append(File.generated(config, "readme.md", content=f.read()))
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
