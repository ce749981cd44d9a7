"""The report as one HTML file that needs nothing else: pictures inside, no script, no address, all
text escaped."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from mimetypes import guess_type
from typing import Any

from jobs.reporting.figures import Drawing

_STYLE = """
:root {
  color-scheme: light; --ink: #20242a; --pale: #6a727c; --line: #e4e8ec; --blue: #1f6fb2;
  --wash: #f6f8fa;
}
* { box-sizing: border-box; }
body {
  margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 40px 32px 72px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 52px 0 4px; padding-top: 18px; border-top: 1px solid var(--line); }
p { margin: 6px 0 14px; max-width: 76ch; }
.pale, .lead { color: var(--pale); }
.badge {
  display: inline-block; font-size: 13px; padding: 1px 10px; border-radius: 10px;
  background: #e7f3ea; color: #1d6b35;
}
.badge.open { background: #fdf1e0; color: #8a5300; }
.tiles { margin: 26px 0 0; }
.tile { display: inline-block; vertical-align: top; min-width: 136px; max-width: 100%;
  margin: 0 8px 12px 0;
  background: var(--wash); border-radius: 8px; padding: 12px 16px; }
.tile b {
  display: block; font-size: 22px; line-height: 1.3; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere;
}
.tile span { font-size: 13px; color: var(--pale); }
.curves img { display: inline-block; vertical-align: top; margin-right: 8px; }
img { display: block; max-width: 100%; height: auto; margin: 8px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 15px; margin: 10px 0 6px; }
th, td {
  text-align: left; padding: 6px 18px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top;
}
th { font-weight: 600; font-size: 13px; color: var(--pale); white-space: nowrap; }
td { overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.strong td { font-weight: 600; }
svg { display: block; }
pre, code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
pre { background: var(--wash); border-radius: 8px; padding: 14px 18px; overflow-x: auto; }
details summary { cursor: pointer; margin: 10px 0; }
@media print { h2 { break-after: avoid; } img, table { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Html:
    """Markup that is safe to insert: its text is escaped already."""

    text: str


def page(title: str, body: Iterable[Html]) -> bytes:
    """Make the whole document."""
    parts = "\n".join(part.text for part in body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{parts}\n</main>\n</body>\n</html>\n"
    ).encode()


def header(title: str, lead: str, badge: str, *, done: bool) -> Html:
    """Make the page's head: what ran, and whether it is finished."""
    mark = f'<span class="badge{"" if done else " open"}">{escape(badge)}</span>'
    return Html(f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)} &nbsp;{mark}</p>')


def tiles(values: Sequence[tuple[str, str]]) -> Html:
    """Show a few figures at a glance, each a value and what it is."""
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in values
    )
    return Html(f'<div class="tiles">{shown}</div>')


def section(title: str, *content: Html) -> Html:
    """Make a section."""
    return Html(
        f"<section>\n<h2>{escape(title)}</h2>\n"
        + "\n".join(part.text for part in content)
        + "\n</section>"
    )


def paragraph(text: str, *, pale: bool = False) -> Html:
    """Make a paragraph of plain text."""
    return Html(f"<p{' class=pale' if pale else ''}>{escape(text)}</p>")


def pictures(*shown: Drawing, width: int | None = None) -> Html:
    """Embed pictures, several side by side where there is room.

    Args:
        shown: The pictures.
        width: Of each, CSS px; by default as many as it has pixels.
    """
    size = f' style="width: {width}px"' if width else ""
    images = [
        f'<img{size} alt="{escape(picture.finding)}" '
        f'src="data:{guess_type(picture.name)[0]};base64,'
        f'{base64.b64encode(picture.data).decode()}">'
        for picture in shown
    ]
    return Html(
        f'<div class="curves">{"".join(images)}</div>' if len(images) > 1 else "".join(images)
    )


def table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], *, strong: Sequence[int] = ()
) -> Html:
    """Make a table: numbers to the right, `Html` as it is, everything else escaped; `strong` rows
    stand out."""
    rows = [list(row) for row in rows]
    numeric = [
        bool(rows) and all(isinstance(row[column], int | float) for row in rows)
        for column in range(len(headings))
    ]
    kinds = [' class="number"' if number else "" for number in numeric]
    head = "".join(
        f"<th{kind}>{escape(heading)}</th>" for kind, heading in zip(kinds, headings, strict=True)
    )
    lines = []
    for index, row in enumerate(rows):
        cells = "".join(
            f"<td{kind}>{_cell(value)}</td>" for kind, value in zip(kinds, row, strict=True)
        )
        lines.append(f"<tr{' class=strong' if index in strong else ''}>{cells}</tr>")
    return Html(f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>')


def _cell(value: Any) -> str:
    if isinstance(value, Html):
        return value.text
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def interval(value: float, low: float, high: float) -> Html:
    """Draw a fraction and its interval on the line from 0 to 1."""
    x, left, right = (4 + 300 * share for share in (value, low, high))
    return Html(
        f'<svg width="308" height="22" role="img" aria-label="{value:.1%}, {low:.1%} to'
        f' {high:.1%}"><line x1="4" x2="304" y1="11" y2="11" stroke="#d3d9df"'
        f' stroke-width="1"/><rect x="{left:.1f}" width="{right - left:.1f}" y="5" height="12"'
        f' rx="2" fill="#8fbce3"/><line x1="{x:.1f}" x2="{x:.1f}" y1="3" y2="19" stroke="#1f6fb2"'
        ' stroke-width="2"/></svg>'
    )


def lines(texts: Iterable[str]) -> Html:
    """Set texts one below the other."""
    return Html("<br>".join(map(escape, texts)))


def listing(summary: str, text: str) -> Html:
    """Fold a long text away under a line."""
    return Html(
        f"<details><summary>{escape(summary)}</summary>\n<pre>{escape(text)}</pre></details>"
    )
