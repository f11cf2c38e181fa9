"""Takes the manual's pictures from a real TensorBoard on real runs.

python -m tests.tensorboard_tab.browser.screenshots FOLDER
"""

import contextlib
import re
import sys
import tempfile
from pathlib import Path

from tests.tensorboard_tab.browser import serving

RUN = "baseline/first_batch"


def take(server, browser, folder):
    """Writes one PNG per picture into a folder."""
    from PIL import Image

    for name, show in PICTURES.items():
        visit = serving.Visit(browser, server)
        with contextlib.closing(visit.page.context):
            show(visit)
            visit.page.wait_for_timeout(1500)  # animations
            path = folder / f"{name}.png"
            visit.page.screenshot(path=path)
        # Half the size, without a visible difference.
        Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
        print(f"{path}: {path.stat().st_size // 1024} kB")


def choose_two(visit):
    """The tab with two runs chosen, and so their difference."""
    visit.page.set_viewport_size({"width": 1400, "height": 680})
    tab = visit.open_tab()
    for run in ("baseline/first_batch", "other-seed/first_batch"):
        row = tab.locator("tbody tr").filter(has_text=re.compile(f"^{re.escape(run)}"))
        row.locator("input").check()
    tab.get_by_text("The digests differ").wait_for()
    return tab


def choose_two_in_the_dark(visit):
    """The same in TensorBoard's dark theme."""
    tab = choose_two(visit)
    visit.page.evaluate("document.body.classList.add('dark-mode')")
    return tab


def show_scalar_card(visit):
    """The mean of every run as a card of the Time Series dashboard."""
    visit.page.set_viewport_size({"width": 1200, "height": 620})
    page = visit.go("?tagFilter=first_batch%2Floss_mean#timeseries")
    page.locator("tb-data-table-content-row").first.wait_for()


def show_profile(visit):
    """The step in the trace viewer."""
    visit.page.set_viewport_size({"width": 1200, "height": 620})
    with visit.page.expect_response(lambda r: "/plugin/profile/data" in r.url):
        visit.go(f"?run={RUN}&tag=trace_viewer%40#profile")
    visit.page.wait_for_timeout(3000)


PICTURES = {
    "first-loss-tab": choose_two,
    "first-loss-tab-dark": choose_two_in_the_dark,
    "scalar-card": show_scalar_card,
    "profile": show_profile,
}


def main():
    """Trains, serves, and takes the pictures."""
    from playwright.sync_api import sync_playwright

    from tests.tensorboard_tab.browser.runs import train_runs

    if missing := serving.what_is_missing():
        sys.exit(missing)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as parent:
        logdir = Path(parent) / "runs"
        train_runs(logdir)
        count = len(list(logdir.iterdir()))
        with serving.tensorboard(logdir) as server, sync_playwright() as playwright:
            server.await_json("data/plugin/text/tags", lambda tags: len(tags) == count)
            browser = playwright.chromium.launch(
                executable_path=serving.find_chromium(), args=serving.CHROMIUM_FLAGS
            )
            take(server, browser, folder)


if __name__ == "__main__":
    main()
