"""The tables of docs/methods.md, made from the recipes' headers.

python -m tests.methods_table    # brings the page up to date
"""

import re
from pathlib import Path

from jobs.setup.words import recipe_names
from tests.recipe_headers import ELSEWHERE, TITLE, read_header

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
SMALL = ("recipe", "paper", "figure given elsewhere", "ours", "on")
LARGE = ("recipe", "paper", "the paper's settings", "ours")


def row(recipe: str) -> str:
    """Return a recipe's line of its table."""
    header = read_header(recipe)
    papers = re.match(rf"arXiv:[\d.]*\d(, arXiv:[\d.]*\d)*|{ELSEWHERE}", header["paper"])
    assert papers is not None
    links = re.sub(r"arXiv:([\d.]*\d)", r"[\1](https://arxiv.org/abs/\1)", papers[0])
    said = header["paper"][papers.end() :].lstrip(",;: ") or "-"
    cells = [f"`{recipe}`", links, said, header["result"]]
    if is_small(recipe):
        cells.append(header["device"])
    return f"| {' | '.join(cells)} |"


def is_small(recipe: str) -> bool:
    """Tell whether a recipe is for small images or texts on CPU cores."""
    title = read_header(recipe)[TITLE]
    return "for small images" in title or "for small texts" in title


def table(*, small: bool) -> str:
    """Return one of the two tables, recipes in the order of their names."""
    headings = SMALL if small else LARGE
    names = [name for name in recipe_names() if name != "demo" and is_small(name) == small]
    ruled = f"|{'---|' * len(headings)}"
    return "\n".join([f"| {' | '.join(headings)} |", ruled, *map(row, names)])


def renewed(page: str) -> str:
    """Return the page's text with its tables, which begin with `| recipe |`, made anew."""
    tables = iter([table(small=True), table(small=False)])
    return re.sub(r"^\| recipe \|.*\n(\|.*\n)*", lambda _: f"{next(tables)}\n", page, flags=re.M)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
