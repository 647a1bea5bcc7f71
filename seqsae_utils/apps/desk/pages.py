"""What the desk shows, as HTML. Titles, labels and messages are always shown as text."""

from html import escape
from pathlib import Path

import pandas as pd

STYLE = (Path(__file__).parents[1] / "desk.css").read_text(encoding="utf-8")


def wrap(content: str) -> str:
    """HTML in the desk's style."""
    return f'<div class="seqsae">{content}</div>'


def heading(text: str, note: str = "") -> str:
    """The head of a part of the desk."""
    note = f'<p class="soft small">{escape(note)}</p>' * bool(note)
    return wrap(f"<h2>{escape(text)}</h2>{note}")


def unfit(scenarios: list[str]) -> str:
    """The presets for which these data have no knobs, folded away."""
    reasons = "".join(f"<p>{escape(reason)}</p>" for reason in scenarios)
    summary = f"<summary>{len(scenarios)} more, not for these data</summary>"
    return wrap(f'<details class="soft small">{summary}{reasons}</details>') * bool(scenarios)


def error(text: str) -> str:
    """A message that a screen reader reads out as soon as it appears."""
    return wrap(f'<div class="error" role="alert">{escape(text)}</div>')


def title(label: str) -> str:
    """The head of the desk, with the style of all of it."""
    return f"<style>{STYLE}</style>" + wrap(f"<h1>{escape(label)}</h1>")


def history(titles: list[str]) -> str:
    """The last items of a history; the newest come first, as the model weighs them."""
    shown = " · ".join(escape(name) for name in titles[:-6:-1])
    return wrap(f'<p class="soft small"><b>{len(titles)} in the history</b>, latest: {shown}</p>')


def lists(table: pd.DataFrame, reasons: pd.DataFrame, turned: set[str]) -> str:
    """The two lists as one table: `Desk.lists`, `Desk.reasons`, and the attributes turned."""
    why = {item: list(rows.itertuples()) for item, rows in reasons.groupby("item")}
    staying, rows = {*table["item_after"]}, []
    for row in table.itertuples():
        stays = row.item_before in staying
        before = _item(row.title_before, row.attributes_before, turned)
        if not stays and row.item_before:
            before += f'<div class="small down">now {row.rank_after:,.0f}</div>'
        after = _item(row.title_after, row.attributes_after, turned)
        after += _why(why.get(row.item_after, []))
        rows.append(
            f'<tr><td class="place">{row.place}</td>'
            f'<td class="before{"" if stays else " gone"}">{before}</td>'
            f'<td class="after{" new" if row.rank_before > len(table) else ""}">{after}</td>'
            f'<td class="move">{_move(row)}</td></tr>'
        )
    head = '<th class="place"><th scope="col">Before<th scope="col">After<th class="move">Moved'
    return wrap(
        "<h2>The list, before and after</h2><table class='lists'>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        '<p class="soft small" style="margin-top:.35rem">Below each title: its attributes, and the '
        "features that contribute most, in logits over the average item, from decoder to head; "
        "the turned ones are coloured. Right: the place it had, and the change of its logit.</p>"
    )


def _item(name: str, attributes: str, turned: set[str]) -> str:
    shown = ", ".join(_attribute(each, turned) for each in attributes.split("|"))
    return f'<div class="name">{escape(name)}</div><div class="small soft">{shown}</div>'


def _attribute(name: str, turned: set[str]) -> str:
    return f"<b>{escape(name)}</b>" if name in turned else escape(name)


def _why(reasons: list) -> str:
    chips = "".join(
        f'<span{" class=turned" if abs(r.turned) > 1e-6 else ""} title="feature {r.feature}">'
        f"{escape(r.label if r.label != 'unnamed' else f'#{r.feature}')} {r.carries:+.1f}</span>"
        for r in reasons
    )
    return f'<div class="why">{chips}</div>'


def _move(row) -> str:
    if not row.item_after:
        return ""
    up = row.rank_before - row.place
    arrow = "=" if not up else f"{'▲' if up > 0 else '▼'} was {row.rank_before:,.0f}"
    colour = "up" if up > 0 else "down" if up < 0 else "soft"
    logit = f'<div class="soft">{row.logit_change:+.1f}</div>' * (abs(row.logit_change) > 0.05)
    return f'<span class="{colour}">{arrow}</span>{logit}'


def shares(table: pd.DataFrame, turned: set[str]) -> str:
    """Each attribute's share (`Desk.shares`) as a bar, with a mark where it was before."""
    rows = []
    for row in table.itertuples():
        if not (row.before or row.after or row.attribute in turned):
            continue
        way = "up" if row.after > row.before else "down" if row.after < row.before else "same"
        change = f"{row.before:.0%} → " * (way != "same")
        name = _attribute(row.attribute, turned)
        rows.append(
            f'<div class="share" data-attribute="{escape(row.attribute)}"><span>{name}</span>'
            f'<span class="bar {way}"><i style="width:{row.after:.0%}"></i>'
            f'<u style="left:calc({row.before:.0%} - 1px)"></u></span>'
            f'<span class="{way}">{change}<b>{row.after:.0%}</b></span></div>'
        )
    return wrap(
        "<h2>What the list holds</h2>"
        '<p class="soft small">Share of the list after; the mark is where it was before.</p>'
        f'<div class="shares">{"".join(rows)}</div>'
    )


def names_for_readers() -> str:
    """HTML that tells screen readers the label of each slider, which ipywidgets only shows."""
    script = (
        "const tell = () => document.querySelectorAll('.seqsae-desk .widget-slider').forEach(w => "
        "w.querySelectorAll('[role=slider], .widget-readout').forEach(part => "
        "part.setAttribute('aria-label', w.querySelector('label').textContent))); "
        "for (const wait of [0, 300, 2000]) setTimeout(tell, wait)"
    )
    return f'<img alt="" src="data:," onerror="{escape(script)}" style="display: none">'


def copy_button() -> str:
    """A button that copies the text of the field above it; the browser does it by itself."""
    script = (
        "const t = this.closest('.seqsae-scenario').querySelector('textarea'); t.select(); "
        "navigator.clipboard.writeText(t.value); this.textContent = 'Copied'; "
        "setTimeout(() => this.textContent = 'Copy as a scenario', 1500)"
    )
    return wrap(f'<button type="button" onclick="{escape(script)}">Copy as a scenario</button>')
