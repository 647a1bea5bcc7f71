"""From a knob to the list: how long the steering desk takes, and a sweep over all users.

    python tests/bench/control.py                 # ML-1M, as `make paper PROFILE=ml-1m` left it
    python tests/bench/control.py --profile ml-100k

Each turn is one knob of one test user, by an arrow key's step. In the kernel: from the value that
arrives to the HTML that goes out. In the browser, where there is a Chromium: from the key that is
pressed to the list that is there, so the way to the kernel and back is in it. These are seconds of
the clock, since that is what a person waits for; the aim is 100 ms, on two cores.

The sweep is that of notebook 6, for all test users: 11 strengths of 10 attributes. Beside it, the
same without remembering what comes before the edit, measured on a tenth of the settings.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import sync_playwright

from seqsae_utils import control, recommender
from seqsae_utils.apps.desk import Desk, widgets

AIM, TURNS = 100, 200
CHROMIUM = os.environ.get("SEQSAE_CHROMIUM") or next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
#: Notes the milliseconds from each key to the first change of the list that follows it.
WATCH = """() => {
  window.took = []; let pressed = 0;
  document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
  new MutationObserver(() => { if (pressed) { took.push(performance.now() - pressed); pressed = 0; } })
    .observe(document.querySelector('table.lists').closest('.widget-html-content'), {childList: true});
}"""  # noqa: E501


def in_the_kernel(profile: str) -> list[float]:
    """Milliseconds of `TURNS` turns, of users and knobs at random."""
    page, rng, took = widgets.Page(Desk.of(profile)), np.random.default_rng(0), []
    for user in rng.choice([*page.desk.sequences], TURNS):
        page.desk.choose(int(user))
        knob = page.knobs[rng.choice(page.desk.attributes)]
        start = time.perf_counter()
        knob.value += 0.5 if knob.value < knob.max else -0.5
        took.append(1000 * (time.perf_counter() - start))
    return took


def in_the_browser(profile: str) -> list[float]:
    """Milliseconds of the turns of every knob, three steps each, of the first user."""
    command = [sys.executable, "-m", "seqsae_utils.run", "desk", "--profile", profile]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        log = Path(folder) / "log"
        with open(log, "w") as output:
            env = {**os.environ, "BROWSER": "true"}
            server = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        try:
            while not (address := re.search(r"http://\S+", log.read_text())):
                time.sleep(0.2)
                if server.poll() is not None:
                    sys.exit(log.read_text())
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(address[0])
            page.wait_for_selector("table.lists", timeout=60_000)
            page.evaluate(WATCH)
            for knob in page.locator(".seqsae-desk [role=slider]").all()[1:-1]:  # not dial, feature
                knob.focus()
                for _ in range(3):
                    page.keyboard.press("ArrowRight")
                    page.wait_for_timeout(300)
            return page.evaluate("took")
        finally:
            server.terminate()
            server.wait()


def sweep(profile: str) -> None:
    """Seconds of 11 strengths x 10 attributes, and how much more each setting takes by itself."""
    desk = Desk.of(profile)
    users = recommender.hold_out_last(desk.dataset.sequences("test"))
    names = desk.dataset.attributes[:10]
    rows = control.directions(
        desk.knobs, desk.dictionary.W_dec.detach().numpy(), desk.dataset.attributes
    )
    turn = control.turn(desk.model, desk.site, desk.dictionary.std, rows)
    start = time.perf_counter()
    swept = control.sweep(
        desk.model, desk.site, users, {"knobs": turn}, names, range(-5, 6), desk.dataset.attributes
    )
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(len(swept.settings) // 10):
        recommender.rank_items(turn(0, 1.0), *users)
    alone = 10 * (time.perf_counter() - start)
    print(
        f"{len(swept.settings)} settings of {len(users[1])} users: {seconds:.0f} s; "
        f"one by one {alone / seconds:.1f} times as long"
    )


def tell(where: str, took: list[float]) -> None:
    middle, most = np.percentile(took, [50, 95])
    verdict = "within" if most <= AIM else "NOT within"
    found = f"median {middle:.0f} ms, 95th percentile {most:.0f} ms, at most {max(took):.0f} ms"
    print(f"{where:<15}{len(took):>4} turns: {found}; {verdict} {AIM} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", default="ml-1m")
    profile = parser.parse_args().profile
    print(f"{profile}, {os.cpu_count()} cores")
    torch.set_num_threads(1)  # as the notebooks do
    sweep(profile)
    tell("in the kernel", in_the_kernel(profile))
    if CHROMIUM:
        tell("in the browser", in_the_browser(profile))
    else:
        print("no Chromium here: what the browser adds was not measured")


if __name__ == "__main__":
    main()
