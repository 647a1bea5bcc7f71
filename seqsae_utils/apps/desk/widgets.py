"""The desk's knobs and buttons: they call the engine, and show its state again."""

import asyncio
import os
import secrets
from collections import defaultdict
from contextlib import suppress
from urllib.parse import parse_qs

import ipywidgets as ipw
import torch

from ...control import Scenario, scenarios
from ...workspace import StageError, Workspace, project
from .. import study
from . import pages
from .engine import MAX_STRENGTH, Desk, State

#: By how much an arrow key turns a knob.
STEP = 0.5
#: Items of the history that can be removed by a click, and seconds until a new list is explained.
N_CHIPS, PAUSE = 12, 0.25
WIDE = {"width": "auto"}
ROWS = {"flex_flow": "row wrap", "align_items": "center"}
#: The user of a history from titles; ipywidgets takes None for no choice at all.
COMPOSED = -1
FILE = project() / "notebooks" / "scenarios.yaml"


def show(profile: str) -> ipw.DOMWidget:
    """The desk of a profile or, if a stage is missing, what repairs it."""
    try:
        page = Page(Desk.of(profile))
    except StageError as error:
        return ipw.HTML(pages.title(profile) + pages.error(str(error)))
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):  # `make desk`
        page.serve(os.environ.get("QUERY_STRING", ""), Workspace(profile))
    return page.root


class Page:
    """One desk on the screen. `root` is the widget to show."""

    def __init__(self, desk: Desk):
        torch.set_num_threads(1)  # for one user's list, a second thread only costs time
        self.desk, self.syncing, self.atlas, self.served = desk, False, "", False
        self.lists, self.shares, self.summary, self.address = (ipw.HTML() for _ in range(4))
        self.compared, self.download = ipw.HTML(), ipw.HTML()
        #: What is pinned beside the untouched list, by its letter.
        self.pins: dict[str, Scenario] = {}
        #: What there is to say beside each group of controls.
        self.says: dict[str, ipw.HTML] = defaultdict(ipw.HTML)
        self.waiting: asyncio.TimerHandle | None = None
        #: Where a study's events go, and as whose: nobody's before they agree.
        self.study, self.participant = study.file(), ""
        head = ipw.HTML(pages.title(desk.label))
        bar = ipw.Box([self.summary, *self._steps(), self.says["steps"]], layout=ROWS)
        dial = ipw.Box([*self._dial(), self.says["dial"]], layout=ROWS)
        left = ipw.VBox(
            [self.lists, *self._compare(), self.shares, *self._scenario()],
            layout={"flex": "100 1 34rem", "min_width": "0"},
        )
        right = ipw.VBox(
            [*self._who(), *self._presets(), *self._knobs(), *self._features()],
            layout={"flex": "1 1 20rem", "max_width": "26rem", "min_width": "17rem"},
        )
        columns = ipw.Box([left, right], layout={"flex_flow": "row wrap", "grid_gap": "0 2rem"})
        top, scripts = ipw.VBox([bar, dial]), ipw.HTML(pages.names_for_readers())
        self.root = ipw.VBox(
            [head, top, columns, *self._study(), scripts, self.address, self.download],
            layout={"max_width": "84rem", "margin": "0 auto"},
        )
        named = {"desk": self.root, "top": top, "bar": bar, "summary": self.summary, "dial": dial}
        for name, widget in (named | {"chips": self.chips}).items():
            widget.add_class(f"seqsae-{name}")
        self.show()

    def serve(self, query: str, workspace: Workspace) -> None:
        """Go where the address says, keep it up to date, and link to the atlas if there is one."""
        self.served = True
        self.atlas = "atlas.html?desk" * (workspace.artifacts / "atlas.html").is_file()
        self._attempt("steps", lambda: self.desk.visit(query))
        for letter, toggle in self.toggles.items():
            for text in parse_qs(query).get(letter, []):
                self._attempt("compare", self._visit, letter, text)
                toggle.value = letter in self.pins
        for feature in parse_qs(query).get("feature", []):
            self.feature.value = feature

    def _steps(self) -> list[ipw.Widget]:
        users = {f"user {u} · {len(items)} items": u for u, items in self.desk.sequences.items()}
        options = [("composed from titles", COMPOSED), *users.items()]
        self.user = ipw.Dropdown(options=options, description="User", layout={"width": "16rem"})
        choose = lambda user: None if user == COMPOSED else self.desk.choose(user)  # noqa: E731
        self._on(self.user, choose, "steps")
        zero = lambda: self.desk.play(Scenario("my scenario"))  # noqa: E731
        steps = {"Undo": self.desk.undo, "Redo": self.desk.redo, "All to zero": zero}
        return [self.user, *(self._button(text, do, "steps") for text, do in steps.items())]

    def _dial(self) -> list[ipw.Widget]:
        self.what = ipw.Dropdown(options=self.desk.attributes, description="Make")
        self.share = ipw.IntSlider(50, 0, 100, 10, description="per cent")
        ways = [("features and scores", "both"), ("features", "features"), ("scores", "scores")]
        self.way = ipw.Dropdown(options=ways, description="by")
        for widget, width in ((self.what, "11rem"), (self.share, "15rem"), (self.way, "13rem")):
            widget.layout.width = width
        ask = lambda: self.desk.dial(self.what.value, self.share.value / 100, self.way.value)  # noqa: E731
        self.asked = ipw.Box(layout=ROWS)
        return [self.what, self.share, self.way, self._button("Do it", ask, "dial"), self.asked]

    def _who(self) -> list[ipw.Widget]:
        self.chips = ipw.Box(layout=ROWS)
        self.more = ipw.HTML()
        self.title = ipw.Combobox(
            options=self.desk.dataset.unique_titles[1:],
            placeholder="add one: type, and choose",
            description="Add",
            continuous_update=False,
            layout=WIDE,
        )
        self._on(self.title, self._add, "who")
        self.titles = ipw.Textarea(
            description="Titles",
            placeholder="or a history: one title a line, oldest first",
            rows=3,
            layout=WIDE,
        )
        use = self._button("Use these titles", lambda: self.desk.compose(self.titles.value), "who")
        head = ipw.HTML(pages.heading("The history", "Latest first; a click takes one out."))
        return [head, self.chips, self.more, self.title, self.titles, use, self.says["who"]]

    def _add(self, title: str) -> None:
        if title.strip():
            item = self.desk.find(title.strip())
            self.desk.take([*(i for i in self.desk.state.history if i != item), item])
            self.syncing = True  # to empty the box is no action
            self.title.value = ""
            self.syncing = False

    def _drop(self, item: int) -> None:
        self.desk.take(i for i in self.desk.state.history if i != item)

    def _compare(self) -> list[ipw.Widget]:
        self.toggles = {}
        for letter in "AB":
            toggle = ipw.ToggleButton(description=f"Pin {letter}", layout={"width": "auto"})
            toggle.tooltip = f"Pin {letter}: keep what the knobs say beside the untouched list"
            self._on(toggle, lambda on, letter=letter: self._pin(letter, on), "compare")
            self.toggles[letter] = toggle
        buttons = [*self.toggles.values(), self._button("Save as a page", self._page, "compare")]
        return [ipw.Box([*buttons, self.says["compare"]], layout=ROWS), self.compared]

    def _pin(self, letter: str, on: bool) -> None:
        """Keep the scenario beside the untouched list, for any history to come, or drop it."""
        if not on:
            self.pins.pop(letter, None)
        elif letter not in self.pins:  # else the button follows what the address said
            self.pins[letter] = self.desk.state.scenario

    def _visit(self, letter: str, text: str) -> None:
        for scenario in scenarios.parse(text, "address").values():
            scenario.check(self.desk.knobs, self.desk.features)
            self.pins[letter] = scenario

    def _page(self) -> None:
        """Hand the browser one HTML file of what is shown."""
        self.explain()
        state = self.desk.state
        history = [self.desk.dataset.unique_titles[item] for item in state.history]
        shown = [self.summary, self.lists, self.compared, self.shares]
        self.download.value = pages.download(
            self.desk.label,
            [part.value for part in shown],
            history,
            scenarios.write(state.scenario),
        )

    def _presets(self) -> list[ipw.Widget]:
        self.presets, self.unfit = ipw.Box(layout=ROWS), ipw.HTML()
        self._read()
        return [ipw.HTML(pages.heading("Presets")), self.presets, self.says["presets"], self.unfit]

    def _read(self) -> None:
        """A button for each scenario of the file that fits, and why the others do not."""
        buttons = []
        try:
            presets = scenarios.read(FILE)
            found, unfit = scenarios.fitting(presets, self.desk.knobs, self.desk.features)
        except ValueError as error:
            found, unfit = {}, [str(error)]
        for name, scenario in found.items():
            play = self._button(name, lambda s=scenario: self.desk.play(s), "presets")
            play.tooltip = scenario.about
            buttons.append(play)
        self.presets.children, self.unfit.value = buttons, pages.unfit(unfit)

    def _knobs(self) -> list[ipw.Widget]:
        self.knobs, self.off, rows = {}, {}, []
        for attribute in self.desk.attributes:
            knob = _slider(attribute)
            knob.tooltip, knob.layout.flex = self.desk.behind(attribute), "1 1 auto"
            off = ipw.ToggleButton(description="off", layout={"width": "3rem"})
            off.tooltip = f"no {attribute} in the list"
            self._on(knob, lambda strength, a=attribute: self._turn(a, strength), "knobs")
            self._on(off, lambda on, a=attribute: self._off(a, on), "knobs")
            self.knobs[attribute], self.off[attribute] = knob, off
            rows.append(ipw.HBox([knob, off]))
        note = "Arrow keys turn a knob; off is the dial at 0 per cent."
        return [ipw.HTML(pages.heading("Knobs", note)), self.says["knobs"], *rows]

    def _off(self, attribute: str, on: bool) -> None:
        self.desk.dial(attribute, 0.0 if on else None, self.way.value)

    def _turn(self, attribute: str, strength: float) -> None:
        """Turn, unless the browser has only rounded a scenario's strength to a slider's step."""
        if abs(strength - self.desk.state.scenario.turn.get(attribute, 0.0)) >= STEP / 2:
            self.desk.turn(attribute, strength)

    def _features(self) -> list[ipw.Widget]:
        names = [f"{f} · {self.desk.finding[f]}" for f in self.desk.alive]
        self.feature = ipw.Combobox(
            options=names,
            placeholder="a number, a label, a concept, a title",
            description="Feature",
            continuous_update=False,
            layout=WIDE,
        )
        self.strength = _slider("strength")
        self._on(self.feature, lambda text: text.strip() and self._chosen(), "features")
        self._on(
            self.strength, lambda strength: self.desk.turn(self._chosen(), strength), "features"
        )
        note = "Single features, by the labels of the atlas or the items that they raise."
        head = ipw.HTML(pages.heading("Features", note))
        return [head, self.says["features"], self.feature, self.strength]

    def _chosen(self) -> int:
        feature = self.desk.feature(self.feature.value)
        Scenario(features={feature: 0.0}).check(self.desk.knobs, self.desk.features)
        return feature

    def _scenario(self) -> list[ipw.Widget]:
        self.text = ipw.Textarea(description="Scenario", rows=4, layout=WIDE)
        note = "What the knobs say; or paste one, and apply it. Save adds it to the presets."
        copy = ipw.HTML(pages.copy_button(), layout={"width": "10rem"})
        apply = self._button("Apply", self._apply, "scenario")
        buttons = ipw.HBox([copy, apply, self._button("Save", self._save, "scenario")])
        head = ipw.HTML(pages.heading("As a scenario", note))
        box = ipw.VBox([head, self.text, buttons, self.says["scenario"]])
        box.add_class("seqsae-scenario")
        return [box]

    def _study(self) -> list[ipw.Widget]:
        """The consent and, once it is given, the questions; nothing where there is no study."""
        if not self.study:
            return []
        agree = ipw.ToggleButton(description="I agree", tooltip="I agree to take part")
        scale = [("choose", 0), *((f"{i}: {said}", i) for i, said in enumerate(study.SCALE, 1))]
        asked = [
            ipw.Dropdown(options=scale, description=f"{i}. {text}")
            for i, text in enumerate(study.QUESTIONS, 1)
        ]
        send = self._button("Send my answers", lambda: self._send(asked), "study")
        self.questions = ipw.VBox([*asked, send], layout={"display": "none"})
        self.questions.layout.align_items = "flex-start"
        self._on(agree, self._agree, "study")
        box = ipw.VBox([ipw.HTML(pages.consent(self.study.name)), agree, self.questions])
        box.children = [*box.children, self.says["study"]]
        box.add_class("seqsae-study")
        return [box]

    def _agree(self, agreed: bool) -> None:
        if agreed:
            self.participant = secrets.token_hex(4)
        self._log("consent" if agreed else "withdrawn")
        self.participant = self.participant if agreed else ""
        self.questions.layout.display = "flex" if agreed else "none"

    def _send(self, asked: list[ipw.Dropdown]) -> None:
        given = [question.value for question in asked]
        if missing := [i for i, answer in enumerate(given, 1) if not answer]:
            raise ValueError(f"{', '.join(map(str, missing))} of 7: not answered yet")
        self._log("answers", answers=given)
        self.says["study"].value = pages.note("Thank you: your answers are kept.")

    def _log(self, event: str, **content) -> None:
        if self.study and self.participant:
            study.append(self.study, self.participant, event, **content)

    def _written(self) -> Scenario:
        found = scenarios.parse(self.text.value)
        if len(found) != 1:
            raise ValueError(f"{len(found)} scenarios ({', '.join(found)}): apply one at a time")
        return next(iter(found.values()))

    def _apply(self) -> None:
        self.desk.play(self._written())

    def _save(self) -> None:
        scenario = self._written()
        scenario.check(self.desk.knobs, self.desk.features)
        scenarios.append(FILE, scenario)
        self._read()

    def _on(self, widget: ipw.Widget, action, at: str) -> None:
        """Call the action with each new value of the widget; what it says stands `at` a group."""
        widget.observe(lambda change: self._attempt(at, action, change["new"]), "value")

    def _button(self, text: str, action, at: str) -> ipw.Button:
        button = ipw.Button(description=text, layout={"width": "auto"})
        button.on_click(lambda _: self._attempt(at, action))
        return button

    def _attempt(self, at: str, action, *values) -> None:
        """Do it or, if it is refused, say why beside it; then show the desk's state."""
        if self.syncing:
            return
        failed = {}
        try:
            action(*values)
        except ValueError as error:
            failed = {at: str(error)}
        elsewhere = "; ".join(self.desk.missed())  # of a share that was asked for another history
        for name, says in self.says.items():
            text = failed.get(name) or (elsewhere if name == "dial" else "")
            says.value = pages.error(text) if text else ""
        self.show(keep_text=bool(failed))
        if at != "study":
            name, items = action.__name__.strip("_<>"), self.desk.after.items.tolist()
            self._log(
                at if name == "lambda" else name,
                refused=failed.get(at, ""),
                state=self.desk.address(),
                items=items,
            )

    def show(self, keep_text: bool = False) -> None:
        """Show the state of the desk; a text that was refused stays, to be corrected."""
        state: State = self.desk.state
        scenario, self.syncing = state.scenario, True
        try:
            self.user.value = COMPOSED if state.user is None else state.user
            self.way.value = scenario.by if scenario.share else self.way.value
            for attribute, knob in self.knobs.items():
                knob.value = scenario.turn.get(attribute, 0.0)
                self.off[attribute].value = scenario.share.get(attribute) == 0
            if not keep_text:
                self.text.value = scenarios.write(scenario)
                strength = 0.0
                with suppress(ValueError):  # no feature is chosen, or one that was refused
                    strength = scenario.features.get(self._chosen(), 0.0)
                self.strength.value = strength
        finally:
            self.syncing = False
        self._chips(state)
        self.turned = {*scenario.turn, *scenario.share, *map(str, scenario.suppress)}
        self.table, shares = self.desk.lists(), self.desk.shares()
        self.lists.value = pages.lists(self.table, None, {}, self.turned)
        self.shares.value = pages.shares(shares, self.turned)
        self.summary.value = pages.summary(self.table, shares, self.desk.after.dialled)
        if self.served:
            self.address.value = pages.go_to(self.desk.address(**self.pins))
        if self.waiting:
            self.waiting.cancel()
        try:  # a hand that goes on turning does not wait for reasons
            self.waiting = asyncio.get_running_loop().call_later(PAUSE, self.explain)
        except RuntimeError:
            self.explain()

    def explain(self) -> None:
        """Show why each item is in the list."""
        titles, found = self.desk.dataset.unique_titles, self.desk.because()
        because = {item: [titles[i] for i in items] for item, items in found.items()}
        reasons = self.desk.reasons()
        self.lists.value = pages.lists(self.table, reasons, because, self.turned, self.atlas)
        seen = {pin: self.desk.imagine(scenario) for pin, scenario in self.pins.items()}
        said = {pin: scenarios.write(scenario) for pin, scenario in self.pins.items()}
        self.compared.value = pages.compared(self.table["title_before"].tolist(), seen, said)

    def _chips(self, state: State) -> None:
        """A button that removes it for each of the last items, and for each share asked for."""
        last, titles = state.history[: -N_CHIPS - 1 : -1], self.desk.dataset.unique_titles
        if [*last] != [getattr(chip, "item", None) for chip in self.chips.children]:
            chips = []
            for item in last:
                chip = self._button(f"{titles[item]} ✕", lambda i=item: self._drop(i), "who")
                chip.item, chip.tooltip = item, f"take {titles[item]} out of the history"
                chips.append(chip)
            self.chips.children = chips
        older = len(state.history) - len(last)
        self.more.value = pages.note(f"and {older} older ones" if older else "")
        self.asked.children = [
            self._button(
                f"{a} {of:.0%} ✕", lambda a=a: self.desk.dial(a, None, self.way.value), "dial"
            )
            for a, of in state.scenario.share.items()
        ]


def _slider(knob: str) -> ipw.FloatSlider:
    slider = ipw.FloatSlider(0.0, min=-MAX_STRENGTH, max=MAX_STRENGTH, step=STEP, description=knob)
    slider.readout_format, slider.layout = "+.1f", WIDE
    return slider
