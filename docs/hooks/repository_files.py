"""Makes links out of docs/, such as to a figure in results/, work both in the repository and on the site.

The site gets a copy of each such file, under the same path. Source code is shown as text. A Markdown file becomes a page if
the navigation contains it.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
SHOWN_BY_BROWSERS = (".png", ".jpg", ".svg", ".html", ".md", ".csv", ".json", ".txt")
log = logging.getLogger("mkdocs.hooks")


def root_of(config: Any) -> Path:
    return Path(config.config_file_path).parent


def add(uri: str, files: Files, config: Any) -> None:
    """Adds a file of the repository to the site, under the same path."""
    if files.get_file_from_path(uri) is None:
        shown = uri.endswith(SHOWN_BY_BROWSERS)
        dest = None if uri.endswith(".md") else uri if shown else f"{uri}.txt"
        files.append(File(uri, str(root_of(config)), config.site_dir, config.use_directory_urls, dest_uri=dest))


def named_in(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [uri for part in (nav.values() if isinstance(nav, dict) else nav) for uri in named_in(part)]


def on_files(files: Files, /, *, config: Any) -> Files:
    """Called by MkDocs with the files of docs/."""
    for uri in named_in(config.nav):
        if (root_of(config) / uri).is_file():
            add(uri, files, config)
    return files


def on_page_markdown(markdown: str, /, *, page: Any, config: Any, files: Files) -> str:
    """Called by MkDocs with the text of each page."""
    root, docs = root_of(config), Path(config.docs_dir)
    here = Path(page.file.abs_src_path).parent

    def link(found: re.Match[str]) -> str:
        opening, target, anchor, closing = found.groups(default="")
        path = Path(os.path.normpath(here / target))
        if ":" in target or (path.is_relative_to(docs) and here.is_relative_to(docs)):
            return found[0]
        if path.is_relative_to(docs):
            uri = path.relative_to(docs).as_posix()
        elif path.is_relative_to(root) and path.is_file():
            uri = path.relative_to(root).as_posix()
            add(uri, files, config)
        else:
            log.warning("%s: %s is no file of the repository", page.file.src_uri, target)
            return found[0]
        return opening + os.path.relpath(uri, PurePosixPath(page.file.src_uri).parent) + anchor + closing

    return LINK.sub(link, markdown)
