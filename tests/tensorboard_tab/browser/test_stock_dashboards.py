"""TensorBoard's stock dashboards on recordings, as a person sees them."""

import re

import numpy as np
import pytest

from tests.tensorboard_tab.browser.serving import TIMEOUT_SECONDS

pytestmark = pytest.mark.slow

RUN = "baseline/first_batch"
TRACE_VIEWER = f"?run={RUN}&tag=trace_viewer%40#profile"


def read_card(page, tag):
    """The texts of the value column of a scalar card, by run."""
    card = page.locator("scalar-card").filter(has_text=tag)
    card.locator("tb-data-table-content-row").first.wait_for()
    rows = card.locator("tb-data-table-content-row")
    found = {}
    for row in rows.all():
        cells = [cell.strip() for cell in row.inner_text().split("\n") if cell.strip()]
        found[cells[0]] = cells[1:]
    return found


def check_card(card, values):
    """Fails unless a card shows the value of each of its runs."""
    assert card, "the card shows no run"
    for run, texts in card.items():
        # Smoothed, value and step, to five digits.
        assert float(texts[1]) == pytest.approx(values[run], rel=1e-4, nan_ok=True), run


@pytest.fixture(scope="session")
def means(good):
    means = {run: first.mean for run, first in good.items() if len(first.outputs) == 1}
    # This copy's exact tensor is damaged; its scalars are intact.
    return {**means, "damaged/first_batch": means["other-seed/first_batch"]}


def test_the_scalar_card_shows_the_value(visits, one_server, means):
    page = visits(one_server).go("?tagFilter=first_batch%2Floss_mean#timeseries")
    api = {
        run: one_server.get_json(
            "data/plugin/scalars/scalars", run=run, tag="first_batch/loss_mean"
        )
        for run in means
    }
    assert {run: points[0][2] for run, points in api.items()} == pytest.approx(means)
    assert all(len(points) == 1 and points[0][1] == 0 for points in api.values())
    check_card(read_card(page, "first_batch/loss_mean"), means)


def test_check_card_notices(visits, one_server, means):
    page = visits(one_server).go("?tagFilter=first_batch%2Floss_mean#timeseries")
    card = read_card(page, "first_batch/loss_mean")
    with pytest.raises(AssertionError):
        check_card(card, {run: mean + 0.01 for run, mean in means.items()})
    with pytest.raises(AssertionError):
        check_card({}, means)


def test_a_nan_loss_is_shown_as_nan(visits, one_server):
    page = visits(one_server).go(
        "?tagFilter=first_batch%2Floss%24&runFilter=images-with-nan#timeseries"
    )
    card = read_card(page, "first_batch/loss")
    assert card["images-with-nan/first_batch"][1] == "NaN"


def test_the_histogram_has_a_shape(visits, one_server):
    page = visits(one_server).go("#histograms&regexInput=%5Eother-seed")
    paths = page.locator("tf-histogram-loader path")
    paths.first.wait_for(state="attached")
    for _ in range(10 * TIMEOUT_SECONDS):  # the drawing is animated
        boxes = [path.bounding_box() or {"height": 0, "width": 0} for path in paths.all()]
        if max(min(box["height"], box["width"]) for box in boxes) > 20:
            return
        page.wait_for_timeout(100)
    pytest.fail(f"no histogram is drawn: {boxes}")


def test_the_graph_shows_the_steps_operations(visits, one_server):
    page = visits(one_server).go(f"#graphs&run={RUN.replace('/', '%2F')}")
    page.locator("tf-graph-scene text", has_text="MatMul").first.wait_for()


def test_the_profile_has_the_marked_step(visits, one_server):
    visit = visits(one_server)
    with visit.page.expect_response(lambda r: "/plugin/profile/data" in r.url) as answered:
        visit.go(TRACE_VIEWER)
    events = answered.value.json()["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert any(name.startswith("train") for name in names)
    # The charts of xprof come from the internet, which this browser does not reach.
    visit.strangers.clear()
    visit.errors.clear()


def test_hyperparameters_and_metrics_are_one_row_per_run(visits, one_server, good, logdir):
    page = visits(one_server).go("#hparams")
    # Six runs were given hyperparameters; one of the recordings is damaged, its hparams are not.
    cells = page.locator("vaadin-grid-cell-content")
    for name in ("baseline", "baseline-repeated", "weights-too-large", "images-with-nan"):
        cells.filter(has_text=re.compile(rf"^\s*{name}/first_batch\s")).first.wait_for()
    loss = float(good[RUN].loss)
    texts = cells.all_inner_texts()
    assert np.isclose([float(t) for t in map(str.strip, texts) if is_number(t)], loss, 1e-4).any()


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_the_report_is_rendered(visits, one_server, good):
    page = visits(one_server).go("#text&regexInput=%5Ebaseline%2F")
    card = page.locator("tf-text-loader")
    card.locator("h2", has_text="baseline/first_batch: first batch, step 0").wait_for()
    assert all(text.strip() for text in card.locator("thead").all_inner_texts())
    card.locator("td", has_text=good[RUN].digest).first.wait_for()
