"""Panel 16: which parameters tell the best trials from all."""

from __future__ import annotations

import altair as alt

from tracking.analysis.data import is_number
from tracking.analysis.importance import Importance, Importances, importances, place_of_rate
from tracking.analysis.rungs import is_tune
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import GREY, METHODS, Figure, Panel, Table

MORE, LESS = "more than chance", "no more than chance"
PLACES = "The learning rate is its place in the range of its batch size and optimizer, 0 the lowest and 1 the highest."
RATES = "The ranges of learning rates are not known here, so the rate itself is compared: part of what it decides is "
RATES += "then the batch size's."
METHOD = (
    "Pearson's divergence between a parameter's values among the best trials and among all that were tried, less what "
    "random choices of as many trials give on average (after PED-ANOVA, Watanabe et al. 2023): 0 says that the best "
    "are like all. Only trials that ran to their end can be among the best; lines are 95 % intervals from resampling "
    "them. Each parameter is looked at alone; what matters only in company does not show."
)
TRIED = "It is about what was tried: a sampler that has left a bad region early leaves little to tell it by."


def importance_panel(analysis: Analysis) -> Panel | None:
    """One bar for each parameter; None for a search that is no `tune`."""
    data = analysis.data
    if not is_tune(data):
        return None
    number, name, question = "16", "importance", "Which parameters decide whether a trial is among the best?"
    result = importances(data)
    if not result.found:
        lack = result.reason or "No parameter that was searched has more than one value among the best."
        return Panel(number=number, name=name, question=question, sentence=lack)
    rated = [row for row in data.trials if is_number(row.get("learning_rate"))]
    notes = [METHOD, TRIED]
    if rated:
        notes.append(PLACES if all(place_of_rate(data, row) is not None for row in rated) else RATES)
    if result.left_out:
        notes.append(f"Left out, as too few of the best have them: {words.listed(list(result.left_out))}.")
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=importance_sentence(result),
        figures=[_figure(result, name)],
        table=Table(
            columns=["parameter", "importance", "95 % interval", "by chance", "trials", "commonest among the best"],
            rows=[_row(one) for one in result.found],
        ),
        notes=notes,
    )


def importance_sentence(result: Importances) -> str:
    """What mattered most, or that nothing can be told from chance."""
    among = f"the best {result.top:,} of {words.count(result.judged, 'trial')}"
    clear = [one for one in result.found if one.more_than_chance]
    if not clear:
        return f"Nothing tells {among} from the others more than chance would."
    first, *others = clear
    also = f"; then {words.listed([_named(one) for one in others])}" if others else ""
    return f"What mattered most for being among {among} is {_named(first)}{also}."


def _named(one: Importance) -> str:
    return f"{one.name.replace('_', ' ')} (most of all {one.best})"


def _row(one: Importance) -> list[str]:
    ends = f"{_shown(one.low)} to {_shown(one.high)}"
    chance = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.2g}"
    return [one.name, _shown(one.value), ends, chance, f"{one.trials:,}", one.best]


def _shown(value: float) -> str:
    return f"{max(0.0, value):.2f}"


def _figure(result: Importances, name: str) -> Figure:
    rows = [
        {
            "name": one.name,
            "value": max(0.0, one.value),
            "low": max(0.0, one.low),
            "high": max(0.0, one.high),
            "told": MORE if one.more_than_chance else LESS,
            "p": one.p,
            "best": one.best,
        }
        for one in result.found
    ]
    colour = alt.Color("told:N", scale=alt.Scale(domain=[MORE, LESS], range=[METHODS[0], GREY]), title=None)
    y = alt.Y("name:N", title=None, sort=[one.name for one in result.found])
    base = alt.Chart(drawing.named("importance")).encode(y=y)
    bars = base.mark_bar(height=14).encode(
        x=alt.X("value:Q", title="importance (divergence beyond chance; 0: none)", scale=alt.Scale(domainMin=0)),
        color=colour,
        tooltip=drawing.tips(["name:N", "value:Q", "low:Q", "high:Q", "p:Q", "best:N"]),
    )
    ends = base.mark_rule(strokeWidth=1.5, color="#222222").encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"))
    chart = alt.layer(bars, ends).properties(height=34 * len(rows) + 20, width=drawing.WIDTH)
    label = "Importance of each searched parameter, with its 95 % interval."
    return Figure(name=name, chart=chart, data={"importance": rows}, label=label)
