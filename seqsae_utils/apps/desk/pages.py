"""What the desk shows, as HTML. Titles, labels and messages are text, whatever they hold."""

from html import escape

import pandas as pd

STYLE = """<style>
.seqsae { --ink: var(--jp-content-font-color1, #1b1f23); --soft: var(--jp-content-font-color2, #59626b);
  --line: var(--jp-border-color2, #dfe4e8); --up: #0072b2; --down: #b3500b; --faint: rgba(128, 140, 152, .11);
  container-type: inline-size; color: var(--ink); font: 14px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; }
.seqsae h1 { font-size: 1.15rem; line-height: 1.2; margin: 0 0 .2rem; font-weight: 650; }
.seqsae h2 { font-size: .95rem; margin: .9rem 0 .15rem; font-weight: 650; line-height: 1.3; }
.seqsae p { margin: 0 0 .3rem; } .seqsae .soft { color: var(--soft); } .seqsae .small { font-size: .82rem; }
.seqsae table { border-collapse: collapse; width: 100%; table-layout: fixed; margin: .2rem 0 0; font-size: inherit; border: 0; }
.seqsae th { text-align: left; font-size: .8rem; font-weight: 600; color: var(--soft); }
.seqsae th, .seqsae td { padding: .38rem .5rem; border: 0; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left; overflow-wrap: anywhere; white-space: normal; background: none; }
.seqsae tbody tr, .seqsae tbody tr:hover { background: none !important; }
.seqsae .place { width: 1.7rem; color: var(--soft); text-align: right; padding-left: 0; }
.seqsae .move { width: 4.6rem; font-size: .82rem; padding-right: 0; white-space: nowrap; } .seqsae td.move { line-height: 1.7; }
.seqsae .up { color: var(--up); } .seqsae .down { color: var(--down); } .seqsae b { font-weight: 650; }
.seqsae .name { font-weight: 550; } .seqsae .gone .name { color: var(--soft); font-weight: 400; }
.seqsae td.new { background: color-mix(in srgb, var(--up) 7%, transparent); }
.seqsae .why { margin-top: .12rem; display: flex; flex-wrap: wrap; gap: .3rem; height: 1.2rem; overflow: hidden; }
.seqsae .why span { font-size: .75rem; line-height: 1.45; padding: 0 .4rem; border-radius: 1rem; background: var(--faint); color: var(--soft); }
.seqsae .why .turned { background: color-mix(in srgb, var(--up) 16%, transparent); color: var(--ink); }
.seqsae .shares { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: .2rem 1.6rem; margin-top: .3rem; }
.seqsae .share { display: grid; grid-template-columns: 6rem 1fr 5.6rem; gap: .5rem; align-items: center; font-size: .86rem; }
.seqsae .bar { position: relative; height: .72rem; background: var(--faint); border-radius: 2px; }
.seqsae .bar i { position: absolute; inset: 0 auto 0 0; border-radius: 2px; background: var(--up); }
.seqsae .bar.down i { background: var(--down); } .seqsae .bar.same i { background: #8a949d; }
.seqsae .bar u { position: absolute; top: -2px; bottom: -2px; width: 2px; background: var(--ink); }
.seqsae .error { border: 1px solid #d6a29c; border-left: 4px solid #b3362b; background: #fdf3f2; color: #6e1f17; border-radius: 5px; padding: .55rem .8rem; margin: .2rem 0 .3rem; overflow-wrap: anywhere; }
.seqsae-message { position: fixed; top: .6rem; left: 50%; transform: translateX(-50%); z-index: 10; width: min(46rem, 92vw); }
.seqsae-message .error { box-shadow: 0 3px 14px rgba(60, 20, 15, .16); }
.seqsae button { font: inherit; font-size: 13px; line-height: 28px; padding: 0 10px; margin: 2px; border: 0; background: var(--jp-layout-color2, #eee); color: inherit; cursor: pointer; white-space: nowrap; }
.seqsae-desk :focus-visible { outline: 2px solid #0072b2 !important; outline-offset: 1px; }
.seqsae-desk .widget-slider .noUi-handle:focus { outline: 2px solid #0072b2; outline-offset: 2px; }
.seqsae-desk .widget-label { width: 5.7rem; } .seqsae-desk .widget-slider .widget-readout { min-width: 2.6rem; width: 2.6rem; }
.seqsae-desk .jupyter-button.mod-active { background: #0072b2; color: #fff; box-shadow: none; }
@container (max-width: 27rem) { .seqsae .why { display: none; } .seqsae th, .seqsae td { padding: .3rem .25rem; } .seqsae .move { width: 3.9rem; font-size: .74rem; } .seqsae .place { width: 1.3rem; } }
</style>"""  # noqa: E501


def wrap(content: str) -> str:
    """HTML in the desk's clothes."""
    return f'<div class="seqsae">{content}</div>'


def heading(text: str, note: str = "") -> str:
    """The head of a part of the desk."""
    note = f'<p class="soft small">{escape(note)}</p>' * bool(note)
    return wrap(f"<h2>{escape(text)}</h2>{note}")


def unfit(scenarios: list[str]) -> str:
    """Which presets these data have no knobs for, folded away."""
    if not scenarios:
        return ""
    reasons = "".join(f"<p>{escape(reason)}</p>" for reason in scenarios)
    summary = f"<summary>{len(scenarios)} more, not for these data</summary>"
    return wrap(f'<details class="soft small">{summary}{reasons}</details>')


def error(text: str) -> str:
    """A message that is read out as soon as it appears."""
    return wrap(f'<div class="error" role="alert">{escape(text)}</div>')


def title(label: str) -> str:
    """The head of the desk, with the style of all of it."""
    return STYLE + wrap(f"<h1>{escape(label)}</h1>")


def history(titles: list[str]) -> str:
    """The last items of a history; the newest come first, as the model weighs them."""
    shown = " · ".join(escape(name) for name in titles[:-6:-1])
    return wrap(f'<p class="soft small"><b>{len(titles)} in the history</b>, latest: {shown}</p>')


def lists(table: pd.DataFrame, reasons: pd.DataFrame, turned: set[str]) -> str:
    """The two lists as one table: `Desk.lists`, `Desk.reasons`, and the attributes turned."""
    why: dict[int, list] = {}
    for reason in reasons.itertuples():
        why.setdefault(reason.item, []).append(reason)
    staying, rows = {*table["item_after"]}, []
    for row in table.itertuples():
        stays = row.item_before in staying
        before = _item(row.title_before, row.attributes_before, turned)
        if not stays and row.item_before:
            before += f'<div class="small down">now {row.rank_after:,.0f}</div>'
        after = _item(row.title_after, row.attributes_after, turned)
        after += _why(why.get(row.item_after, []))
        new = row.rank_before > len(table)
        rows.append(
            f'<tr><td class="place">{row.place}</td>'
            f'<td class="before{"" if stays else " gone"}">{before}</td>'
            f'<td class="after{" new" if new else ""}">{after}</td>'
            f'<td class="move">{_move(row)}</td></tr>'
        )
    head = '<th class="place"><th scope="col">Before<th scope="col">After<th class="move">Moved'
    return wrap(
        "<h2>The list, before and after</h2><table class='lists'>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        '<p class="soft small" style="margin-top:.35rem">Below each title its attributes, and the '
        "features that carry it most, in logits over the average item, read straight from decoder "
        "to head; the turned ones are coloured. At the right the place it had, and the change of "
        "its logit.</p>"
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
    """The share of each attribute as a bar, with a mark where it was before."""
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
    """Gives each slider its label in words: ipywidgets shows it, and tells no screen reader."""
    script = (
        "const tell = () => document.querySelectorAll('.seqsae-desk .widget-slider').forEach(w => "
        "w.querySelectorAll('[role=slider], .widget-readout').forEach(part => "
        "part.setAttribute('aria-label', w.querySelector('label').textContent))); "
        "for (const wait of [0, 300, 2000]) setTimeout(tell, wait)"
    )
    return f'<img alt="" src="data:," onerror="{escape(script)}" style="display: none">'


def copy_button() -> str:
    """Puts the text of the field above it on the clipboard; the browser does it by itself."""
    script = (
        "const t = this.closest('.seqsae-scenario').querySelector('textarea'); t.select(); "
        "navigator.clipboard.writeText(t.value); this.textContent = 'Copied'; "
        "setTimeout(() => this.textContent = 'Copy as a scenario', 1500)"
    )
    return wrap(f'<button type="button" onclick="{escape(script)}">Copy as a scenario</button>')
