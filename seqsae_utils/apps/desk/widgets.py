"""The desk's knobs and buttons: they call the engine, and show its state again."""

import ipywidgets as ipw
import torch

from ...control import Scenario, scenarios
from ...workspace import StageError, project
from . import pages
from .engine import MAX_STRENGTH, N_ITEMS, Desk, State

#: By how much an arrow key turns a knob.
STEP = 0.5
WIDE = {"width": "auto"}
#: The user of a history from titles; ipywidgets takes None for no choice at all.
COMPOSED = -1


def show(profile: str) -> ipw.DOMWidget:
    """The desk of a profile or, if a stage is missing, what repairs it."""
    try:
        return Page(Desk.of(profile)).root
    except StageError as error:
        return ipw.HTML(pages.title(profile) + pages.error(str(error)))


class Page:
    """One desk on the screen. `root` is the widget to show."""

    def __init__(self, desk: Desk):
        torch.set_num_threads(1)  # for one user's list, a second thread only costs time
        self.desk, self.syncing = desk, False
        self.message, self.history, self.lists, self.shares = (ipw.HTML() for _ in range(4))
        left = ipw.VBox(
            [*self._who(), *self._presets(), *self._knobs(), *self._dial(), *self._features()],
            layout={"flex": "1 1 20rem", "max_width": "26rem", "min_width": "17rem"},
        )
        shown = [self.history, self.shares, self.lists, self._scenario()]
        right = ipw.VBox(shown, layout={"flex": "100 1 22rem", "min_width": "0"})
        columns = ipw.Box([left, right], layout={"flex_flow": "row wrap", "grid_gap": "0 2rem"})
        spoken = ipw.HTML(pages.names_for_readers())
        self.message.add_class("seqsae-message")
        self.root = ipw.VBox(
            [ipw.HTML(pages.title(desk.label)), self.message, columns, spoken],
            layout={"max_width": "84rem", "margin": "0 auto"},
        )
        self.root.add_class("seqsae-desk")
        self.show()

    def _who(self) -> list[ipw.Widget]:
        users = {f"user {u} · {len(items)} items": u for u, items in self.desk.sequences.items()}
        options = [("composed from titles", COMPOSED), *users.items()]
        self.user = ipw.Dropdown(options=options, description="User", layout=WIDE)
        self._on(self.user, lambda user: None if user == COMPOSED else self.desk.choose(user))
        self.titles = ipw.Textarea(description="Titles", rows=3, layout=WIDE)
        self.titles.placeholder = "or a history: one title a line, oldest first"
        use = self._button("Use these titles", lambda: self.desk.compose(self.titles.value))
        return [ipw.HTML(pages.heading("Who")), self.user, self.titles, use]

    def _presets(self) -> list[ipw.Widget]:
        file, buttons, unfit = project() / "notebooks" / "scenarios.yaml", [], []
        try:
            found = scenarios.read(file) if file.is_file() else {}
        except ValueError as error:
            found, unfit = {}, [str(error)]
        for name, scenario in found.items():
            try:
                scenario.check(self.desk.knobs, self.desk.features)
            except ValueError as error:
                unfit.append(f"{name}: {str(error).partition(';')[0]}")
                continue
            play = self._button(name, lambda scenario=scenario: self.desk.play(scenario))
            play.tooltip = scenario.about
            buttons.append(play)
        rows = ipw.Box(buttons, layout={"flex_flow": "row wrap"})
        return [ipw.HTML(pages.heading("Presets")), rows, ipw.HTML(pages.unfit(unfit))]

    def _knobs(self) -> list[ipw.Widget]:
        self.knobs, self.off, rows = {}, {}, []
        for attribute in self.desk.attributes:
            knob = _slider(attribute)
            knob.tooltip, knob.layout.flex = self.desk.behind(attribute), "1 1 auto"
            off = ipw.ToggleButton(description="off", layout={"width": "3rem"})
            off.tooltip = f"suppress {attribute}"
            self._on(knob, lambda strength, a=attribute: self._turn(a, strength))
            self._on(off, lambda on, a=attribute: self.desk.suppress(a, on))
            self.knobs[attribute], self.off[attribute] = knob, off
            rows.append(ipw.HBox([knob, off]))
        zero = self._button("All to zero", lambda: self.desk.play(Scenario("my scenario")))
        back = [self._button("Undo", self.desk.undo), zero]
        note = "Arrow keys turn a knob; off suppresses what it stands for."
        return [ipw.HTML(pages.heading("Knobs", note)), *rows, ipw.HBox(back)]

    def _dial(self) -> list[ipw.Widget]:
        what = ipw.Dropdown(options=self.desk.attributes, description="Share of", layout=WIDE)
        share = ipw.IntSlider(50, 0, 100, 10, description="is to be", layout=WIDE)
        go = self._button("Turn until it is", lambda: self._dialled(what.value, share.value / 100))
        note = "Choose a share of the list, in per cent; the desk finds the strength."
        return [ipw.HTML(pages.heading("The dial", note)), what, share, go]

    def _turn(self, attribute: str, strength: float) -> None:
        """Turn, unless the browser has only rounded what the dial found to a slider's step."""
        if abs(strength - self.desk.state.scenario.turn.get(attribute, 0.0)) >= STEP / 2:
            self.desk.turn(attribute, strength)

    def _dialled(self, attribute: str, target: float) -> str:
        """Turn; returns what to say if no strength gets there."""
        share = self.desk.dial(attribute, target)
        if abs(share - target) <= 0.5 / N_ITEMS + 1e-9:
            return ""
        return (
            f"{attribute} comes to {share:.0%}, not {target:.0%}: "
            f"no strength up to {MAX_STRENGTH:g} brings it nearer"
        )

    def _features(self) -> list[ipw.Widget]:
        names = [f"{f} · {self.desk.names[f]}" for f in self.desk.alive]
        self.feature = ipw.Combobox(options=names, description="Feature", layout=WIDE)
        self.feature.placeholder = "its number, or its label"
        self.feature.continuous_update = False
        self.strength = _slider("strength")
        self._on(self.feature, lambda _: self._chosen())
        self._on(self.strength, lambda strength: self.desk.turn(self._chosen(), strength))
        note = "Single features, by the labels of the atlas."
        return [ipw.HTML(pages.heading("Features", note)), self.feature, self.strength]

    def _chosen(self) -> int:
        feature = self.desk.feature(self.feature.value)
        Scenario(features={feature: 0.0}).check(self.desk.knobs, self.desk.features)
        return feature

    def _scenario(self) -> ipw.Widget:
        self.text = ipw.Textarea(description="Scenario", rows=6, layout=WIDE)
        note = "What the knobs say, for notebooks/scenarios.yaml; or paste one, and apply it."
        copy = ipw.HTML(pages.copy_button(), layout={"width": "10rem"})
        buttons = ipw.HBox([copy, self._button("Apply", self._apply)])
        box = ipw.VBox([ipw.HTML(pages.heading("As a scenario", note)), self.text, buttons])
        box.add_class("seqsae-scenario")
        return box

    def _apply(self) -> None:
        found = scenarios.parse(self.text.value)
        if len(found) != 1:
            raise ValueError(f"{len(found)} scenarios ({', '.join(found)}): apply one at a time")
        self.desk.play(next(iter(found.values())))

    def _on(self, widget: ipw.Widget, action) -> None:
        """Call the action with each new value of the widget."""
        widget.observe(lambda change: self._attempt(action, change["new"]), "value")

    def _button(self, text: str, action) -> ipw.Button:
        button = ipw.Button(description=text, layout={"width": "auto"})
        button.on_click(lambda _: self._attempt(action))
        return button

    def _attempt(self, action, *values) -> None:
        """Do it and show what it returns or, if it is refused, why; then show the desk's state."""
        if self.syncing:
            return
        said, failed = "", False
        try:
            said = action(*values)
        except ValueError as error:
            said, failed = str(error), True
        self.message.value = pages.error(said) if isinstance(said, str) and said else ""
        self.show(keep_text=failed)

    def show(self, keep_text: bool = False) -> None:
        """Show the state of the desk; a text that was refused stays, to be corrected."""
        state: State = self.desk.state
        scenario, self.syncing = state.scenario, True
        try:
            self.user.value = COMPOSED if state.user is None else state.user
            for attribute, knob in self.knobs.items():
                knob.value = scenario.turn.get(attribute, 0.0)
                self.off[attribute].value = attribute in scenario.suppress
            if not keep_text:
                self.text.value = scenarios.write(scenario)
                chosen = self.feature.value
                self.strength.value = scenario.features.get(self._chosen(), 0.0) if chosen else 0.0
        finally:
            self.syncing = False
        turned = {*scenario.turn, *(what for what in scenario.suppress if isinstance(what, str))}
        self.history.value = pages.history([self.desk.dataset.titles[i] for i in state.history])
        self.lists.value = pages.lists(self.desk.lists(), self.desk.reasons(), turned)
        self.shares.value = pages.shares(self.desk.shares(), turned)


def _slider(knob: str) -> ipw.FloatSlider:
    slider = ipw.FloatSlider(0.0, min=-MAX_STRENGTH, max=MAX_STRENGTH, step=STEP, description=knob)
    slider.readout_format, slider.layout = "+.1f", WIDE
    return slider
