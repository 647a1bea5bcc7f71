"""What the desk shows, as HTML. Titles, labels and messages are always shown as text."""

from base64 import b64encode
from html import escape
from itertools import zip_longest
from pathlib import Path

import pandas as pd

#: Names of features with fewer characters are never cut.
SHORT = 16
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


def note(text: str) -> str:
    """A small remark."""
    return wrap(f'<p class="soft small">{escape(text)}</p>') * bool(text)


def error(text: str) -> str:
    """A message that a screen reader reads out as soon as it appears."""
    return wrap(f'<div class="error" role="alert">{escape(text)}</div>')


def consent(log: str) -> str:
    """What somebody agrees to who takes part in a study."""
    return heading("Take part in a study") + wrap(
        "<p>If you agree, each thing that you do at this desk (the control, the knobs, the history "
        "and the list, the time) and your answers to seven questions are written to the file "
        f"<b>{escape(log)}</b> on this machine, under a random word, without your name. Nothing is "
        "written before you agree. Whoever takes it back is left out of the evaluation.</p>"
    )


def title(label: str) -> str:
    """The head of the desk, with the style of all of it."""
    return f"<style>{STYLE}</style>" + wrap(f"<h1>{escape(label)}</h1>")


def summary(table: pd.DataFrame, shares: pd.DataFrame, dialled: dict) -> str:
    """One line that tells the new list: how many items are new, and the shares dialled."""
    come = (table["rank_before"] > len(table)).sum()
    parts = [f"<b>{come} of {len(table)} new</b>" if come else "<b>the list as it was</b>"]
    held = shares.set_index("attribute")
    for name, (strength, raised) in dialled.items():
        before, after = (f"{held.loc[name, when]:.0%}" for when in ("before", "after"))
        how = f"strength {strength:+.1f}" * bool(strength), f"scores {raised:+.1f}" * bool(raised)
        by = f" <span class=soft>({', '.join(filter(None, how))})</span>" * any(how)
        parts.append(f"{escape(name)} {before} → {after}{by}")
    first = escape(table["title_after"].iloc[0])
    return wrap(f"{' · '.join(parts)} <span class=soft>· first: {first}</span>")


def lists(
    table: pd.DataFrame,
    reasons: pd.DataFrame | None,
    because: dict[int, list[str]],
    turned: set[str],
    atlas: str = "",
) -> str:
    """The two lists as one table, with the attributes that are turned.

    `Desk.lists`; `Desk.reasons`, None where they are still to come; the titles that speak for an
    item (`Desk.because`); and where the atlas is, if it can be opened from here.
    """
    why: dict = {}
    if reasons is not None:
        why = {item: list(rows.itertuples()) for item, rows in reasons.groupby("item")}
    staying, rows = {*table["item_after"]}, []
    for row in table.itertuples():
        stays = row.item_before in staying
        before = _item(row.title_before, row.attributes_before, turned)
        if not stays and row.item_before:
            before += f'<div class="small down">now {row.rank_after:,.0f}</div>'
        after = _item(row.title_after, row.attributes_after, turned)
        after += _why(because.get(row.item_after, []), why.get(row.item_after, []), atlas)
        rows.append(
            f'<tr><td class="place">{row.place}</td>'
            f'<td class="before{"" if stays else " gone"}">{before}</td>'
            f'<td class="after{" new" if row.rank_before > len(table) else ""}">{after}</td>'
            f'<td class="move">{_move(row)}</td></tr>'
        )
    head = '<th class="place">#<th scope="col" class="before">Before<th scope="col">After'
    head += '<th class="move">Moved'
    return wrap(
        "<h2>The list, before and after</h2><table class='lists'>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        '<p class="soft small" style="margin-top:.35rem">Because of: the items of the history '
        "whose absence would cost this item most, beside the rest of the list. Then the features "
        "that set it apart from the rest; the turned ones are coloured. Right: the place it had, "
        "and the change of its logit.</p>"
    )


def compared(before: list[str], lists: dict[str, list[str]], said: dict[str, str]) -> str:
    """The untouched list beside those pinned (titles by letter), each under its scenario."""
    if not lists:
        return ""
    columns, head = {"untouched": [title for title in before if title], **lists}, ""
    for name in columns:
        text = f'<div class="small soft said">{escape(said.get(name, ""))}</div>'
        head += f'<th scope="col">{escape(name)}{text}</th>'
    rows = ""
    for titles in zip_longest(*columns.values(), fillvalue=""):
        cells = (
            f'<td class="{"" if title in before or not title else "new"}">{escape(title)}</td>'
            for title in titles
        )
        rows += f"<tr>{''.join(cells)}</tr>"
    return wrap(
        '<h2>Pinned</h2><p class="soft small">For the history that is shown; shaded: new.</p>'
        f"<table class='compared'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def download(label: str, parts: list[str], history: list[str], scenario: str) -> str:
    """HTML that hands the browser a page of its own: what is shown, the history, the scenario."""
    text = "".join(f"<li>{escape(name)}</li>" for name in history)
    parts = [*parts, wrap(f"<h2>The history</h2><ol>{text}</ol><h2>The knobs</h2>")]
    page = (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(label)}</title><body style='max-width: 64rem; margin: 1rem auto; "
        f"padding: 0 1rem'>{title(label)}{''.join(parts)}"
        f'<div class="seqsae"><pre>{escape(scenario)}</pre></div></body></html>'
    )
    data = f"data:text/html;base64,{b64encode(page.encode()).decode()}"
    return _script(
        "const link = document.createElement('a'); link.download = 'desk.html'; "
        f"link.href = '{data}'; link.click(); this.remove()"
    )


def _item(name: str, attributes: str, turned: set[str]) -> str:
    shown = ", ".join(_attribute(each, turned) for each in attributes.split("|"))
    return f'<div class="name">{escape(name)}</div><div class="of small soft">{shown}</div>'


def _attribute(name: str, turned: set[str]) -> str:
    return f"<b>{escape(name)}</b>" if name in turned else escape(name)


def _why(because: list[str], reasons: list, atlas: str) -> str:
    text = f"because of {' and '.join(map(escape, because))}" * bool(because)
    chips = ""
    for r in reasons:
        tag, link = "span", ""
        if atlas:
            tag, link = "a", f' href="{escape(atlas)}#feature-{r.feature}" target="_blank"'
        kind = "chip" + " turned" * (abs(r.turned) > 1e-6) + " short" * (len(r.name) < SHORT)
        about = f'class="{kind}"{link}'
        about += f' title="feature {r.feature}, {r.carries:+.1f} over the rest of the list"'
        chips += f"<{tag} {about}>{escape(r.name)}</{tag}>"
    return f'<div class="because small" title="{text}">{text}</div><div class="why">{chips}</div>'


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
    """HTML that tells screen readers what ipywidgets only shows: labels, and what is pressed."""
    script = (
        "const tell = () => { const all = (what, then) => document.querySelectorAll("
        "'.seqsae-desk ' + what).forEach(then); "
        "all('.widget-slider', w => w.querySelectorAll('[role=slider], .widget-readout').forEach("
        "part => part.setAttribute('aria-label', w.querySelector('label').textContent))); "
        "all('.widget-toggle-button', b => { b.setAttribute('aria-label', b.title); "
        "b.setAttribute('aria-pressed', b.classList.contains('mod-active')); }); "
        "all('.seqsae-summary', s => s.setAttribute('role', 'status')); "
        "document.documentElement.lang ||= 'en'; }; "
        "for (const wait of [0, 300, 2000]) setTimeout(() => { tell(); "
        "document.querySelectorAll('.seqsae-desk').forEach(desk => new MutationObserver(tell)"
        ".observe(desk, {subtree: true, attributeFilter: ['class']})); }, wait)"
    )
    return _script(script)


def go_to(address: str) -> str:
    """HTML that puts a query into the address of the page, so that a reload shows the same."""
    return _script(f"history.replaceState(null, '', '?{address}')")


def _script(script: str) -> str:
    return f'<img alt="" src="data:," onerror="{escape(script)}" style="display: none">'


def copy_button() -> str:
    """A button that copies the text of the field above it; the browser does it by itself."""
    script = (
        "const t = this.closest('.seqsae-scenario').querySelector('textarea'); t.select(); "
        "navigator.clipboard.writeText(t.value); this.textContent = 'Copied'; "
        "setTimeout(() => this.textContent = 'Copy as a scenario', 1500)"
    )
    return wrap(f'<button type="button" onclick="{escape(script)}">Copy as a scenario</button>')
