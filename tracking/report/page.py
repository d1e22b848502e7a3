"""The page: one self-contained HTML file with Vega in it once, so that it needs no network."""

from __future__ import annotations

import functools
import html
import json
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources

import vl_convert

from tracking.analysis.cell_checks import Check
from tracking.report.drawing import Panel, Table

VEGA_LITE = "6.4"
"""Version of Vega-Lite that draws both the page and the PNGs; the one that Altair writes for."""
SHOWN = 3
"""Warnings of a panel that are shown at once; the others unfold."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
<footer>Click entries of a legend to see only these, and again to see all. Point at a mark for its numbers.</footer>
</main>
<script>{vega}</script>
<script>{draw}
// Paper cannot be unfolded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(folded => folded.open = true));
</script>
</body>
</html>
"""

DRAW = """
const figures = %s;
const narrow = spec => {
  // Small multiples cannot take the width of the page by themselves: their columns follow from it.
  const box = document.getElementById(spec.id), width = box.clientWidth;
  if (spec.columns) {
    const columns = width < 560 ? 1 : spec.columns;
    spec.vega.columns = columns;
    spec.vega.spec.width = Math.max(180, (width - 95) / columns - (columns > 1 ? 25 : 0));
  } else {
    spec.vega.width = "container";
  }
  spec.vega.config.legend.columns = width < 560 ? 3 : 8;
  return window.vegaEmbed(box, spec.vega, {renderer: "svg", actions: false});
};
window.drawn = Promise.all(figures.map(narrow));
"""


def render(
    *,
    title: str,
    verdict: Sequence[str],
    facts: Sequence[tuple[str, str]],
    checks: Sequence[Check],
    panels: Sequence[Panel],
) -> str:
    """The page as text."""
    figures = [
        {"id": f"figure-{figure.name}", "columns": figure.columns, "vega": figure.spec}
        for panel in panels
        for figure in panel.figures
    ]
    body = [_header(title, verdict, facts, checks, panels), *(_section(panel) for panel in panels)]
    return PAGE.format(
        title=html.escape(title),
        style=resources.files("tracking.report").joinpath("page.css").read_text(encoding="utf-8"),
        body="\n".join(body),
        vega=vega_script() if figures else "",
        draw=DRAW % _script(figures) if figures else "",
    )


@functools.cache
def vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that needs no network."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return bundle.replace("</script", r"<\/script")


def _script(value: object) -> str:
    # "<" would let a name in the data end the script.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", r"\u003c")


def _header(
    title: str,
    verdict: Sequence[str],
    facts: Sequence[tuple[str, str]],
    checks: Sequence[Check],
    panels: Sequence[Panel],
) -> str:
    strip = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    said = "".join(f"<p>{_text(sentence)}</p>" for sentence in verdict)
    links = " ".join(f'<a href="#{panel.name}">{panel.number} {html.escape(panel.name)}</a>' for panel in panels)
    return (
        f"<header><h1>{html.escape(title)}</h1><div class='verdict'>{said}</div>"
        f"<h3>What to trust</h3>{_trust(checks)}<dl class='facts'>{strip}</dl><nav>{links}</nav></header>"
    )


def _trust(checks: Sequence[Check]) -> str:
    if not checks:
        return "<p>All checks of the search passed: ranges, hits, evaluations and trials per cell.</p>"
    return _warnings(checks)


def _section(panel: Panel) -> str:
    figures = "".join(
        f'<div class="figure" id="figure-{figure.name}" role="img" aria-label="{html.escape(figure.label)}"></div>'
        for figure in panel.figures
    )
    notes = "".join(f"<li>{_text(note)}</li>" for note in panel.notes if note)
    return (
        f'<section id="{panel.name}"><h2><small>{panel.number}</small>{html.escape(panel.question)}</h2>'
        f'<p class="sentence">{_text(panel.sentence)}</p>{figures}{_table(panel.table)}'
        f'{_warnings(panel.warnings)}<ul class="notes">{notes}</ul></section>'
    )


def _warnings(checks: Sequence[Check]) -> str:
    items = [f'<li class="{check.severity}">{_text(check.sentence)}</li>' for check in _by_weight(checks)]
    if not items:
        return ""
    shown = f'<ul class="warnings">{"".join(items[:SHOWN])}</ul>'
    more = items[SHOWN:]
    if not more:
        return shown
    return f'{shown}<details><summary>{len(more)} more</summary><ul class="warnings">{"".join(more)}</ul></details>'


def _by_weight(checks: Sequence[Check]) -> list[Check]:
    """Warnings before notes; of each kind one, before the second of any."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[bool, int, int, Check]] = []
    for check in checks:
        ranked.append((check.severity != "warning", seen[check.name], len(ranked), check))
        seen[check.name] += 1
    return [check for *_, check in sorted(ranked, key=lambda entry: entry[:3])]


def _text(sentence: str) -> str:
    """A sentence as HTML, names of settings as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(sentence))


def _table(table: Table | None) -> str:
    if table is None:
        return ""
    heads = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<div class="table"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
