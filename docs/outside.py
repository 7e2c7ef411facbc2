"""Hook of mkdocs: pages and figures that live outside docs/ join the site, and links to them change."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "leaderboard.md": "leaderboard.md",
    "published.md": "results/README.md",
    "claims.md": "results/claims.md",
}
"""Page of the site → file of the repository."""
FIGURES = "results/figures"


def on_files(files: Files, config: Any) -> Files:
    """Add them."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for figure in sorted((ROOT / FIGURES).glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links that are right in the repository to links that are right on the site."""
    source = ROOT / PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    depth = "../" * page.file.src_uri.count("/")

    def rewritten(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        target = (source.parent / link).resolve()
        if not target.is_relative_to(ROOT):
            return match[0]
        inside = target.relative_to(ROOT).as_posix()
        places = {file: page for page, file in PAGES.items()} | {"README.md": "index.md"}
        place = places.get(inside, inside.removeprefix("docs/").replace(FIGURES, "figures"))
        return f"]({depth}{place}{anchor})"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", rewritten, markdown)
