"""The First loss tab, in a browser, on real recordings."""

import contextlib
import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tb_firstloss import FirstLoss
from tb_firstloss.checks import check_recorded
from tests.tensorboard_tab.browser.conftest import HOSTILE_OUTPUT, HOSTILE_RUN, SERVERS
from tests.tensorboard_tab.browser.serving import tensorboard

pytestmark = pytest.mark.slow

COLUMNS = ["run", "loss", "expected", "count", "mean", "std", "min", "max", "nonfinite"]


@pytest.fixture
def tab(server, visits):
    return visits(server).open_tab()


@pytest.fixture
def one_tab(one_server, visits):
    return visits(one_server).open_tab()


def read_table(tab):
    """The texts of the table by row name, in the order shown."""
    rows = tab.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return {row[0]: dict(zip(COLUMNS[1:], row[1:], strict=False)) for row in rows}


def expected_rows(good):
    """What the table should say, from what this package's reader reads."""
    rows = {}
    for run, first in good.items():
        names = {**first.losses, **first.outputs}
        if max(len(first.losses), len(first.outputs)) == 1:
            (output,) = first.outputs.values()
            rows[run] = {
                "loss": None if first.loss is None else float(first.loss),
                "expected": first.metadata.get("expected_loss"),
                **expected_statistics(output),
            }
            continue
        for name in names:
            loss, output = first.losses.get(name), first.outputs.get(name)
            rows[f"{run}: {name}"] = {
                "loss": None if loss is None else float(loss),
                "expected": "no expectation" if "expected_loss" in first.metadata else None,
                **expected_statistics(output),
            }
    return rows


def expected_statistics(output):
    if output is None:
        return dict.fromkeys(COLUMNS[3:])
    values = output.per_example[np.isfinite(output.per_example)].astype(np.float64)
    return {
        "count": output.per_example.size,
        "mean": np.mean(values),
        "std": np.std(values),
        "min": np.min(values),
        "max": np.max(values),
        "nonfinite": output.per_example.size - values.size,
    }


def check_table(table, good):
    """Fails unless the table shows every recording with the values of the reader."""
    rows = expected_rows(good)
    assert set(rows) <= set(table)
    for label, numbers in rows.items():
        for column, number in numbers.items():
            text = table[label][column].rstrip(" ✓✗")
            if number is None or isinstance(number, str):
                assert text == (number or ""), (label, column)
            else:
                assert float(text) == pytest.approx(number, rel=1e-5, nan_ok=True), (label, column)


def choose(tab, *names):
    for name in names:
        row = tab.locator("tbody tr").filter(has_text=re.compile(f"^{re.escape(name)}"))
        row.locator("input").check()


def test_every_recording_is_a_row_with_its_values(tab, good):
    check_table(read_table(tab), good)


@pytest.mark.parametrize("fault", ["missing-run", "other-value"])
def test_check_table_notices(one_tab, good, fault):
    table = read_table(one_tab)
    if fault == "missing-run":
        del table["baseline/first_batch"]
    else:
        table["images-with-nan/first_batch"]["loss"] = "2.5"
    with pytest.raises(AssertionError):
        check_table(table, good)


def test_a_damaged_run_says_so_and_hides_no_other(tab, good):
    table = read_table(tab)
    assert table["damaged/first_batch"]["loss"].startswith("damaged: corrupt record")
    assert len(table) == len(expected_rows(good)) + 1


def test_the_marks_are_the_verdicts_of_check(one_tab, good):
    cells = one_tab.locator("tbody tr").evaluate_all(
        "rows => rows.map(({ cells: [run, , expected] }) =>"
        " [run.innerText, expected?.innerText, expected?.title])"
    )
    shown = {name: (text[-1], title) for name, text, title in cells if text and text[-1] in "✓✗"}
    judged = {run: first for run, first in good.items() if len(first.losses) < 2}
    verdicts = {run: check_recorded(first) for run, first in judged.items()}
    verdicts = {run: verdict for run, verdict in verdicts.items() if verdict is not None}
    assert shown == {run: ("✓" if v.ok else "✗", v.message) for run, v in verdicts.items()}
    assert {v.kind for v in verdicts.values()} == {"ok", "high", "non-finite", "constant"}


def test_what_is_not_as_expected_is_marked(one_tab):
    table = read_table(one_tab)
    marks = {run: row.get("expected", "")[-1:] for run, row in table.items()}
    assert marks["baseline/first_batch"] == "✓"
    assert marks["weights-too-large/first_batch"] == "✗"
    assert marks["images-with-nan/first_batch"] == "✗"
    assert table["images-with-nan/first_batch"]["loss"] == "NaN"
    assert table["images-with-nan/first_batch"]["nonfinite"] == "3"


def test_names_are_shown_as_text_and_never_run(visits, one_server):
    visit = visits(one_server)
    dialogs = []
    visit.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    tab = visit.open_tab()
    name = f"{HOSTILE_RUN}/first_batch: {HOSTILE_OUTPUT}"
    assert name in read_table(tab)
    choose(tab, name)
    assert HOSTILE_RUN in tab.locator("aside h2").first.inner_text()
    assert tab.locator("main img, aside img, main script, aside script").count() == 0
    assert dialogs == []


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_a_run_has_one_line_and_keeps_its_name_in_view(visits, one_server, width):
    visit = visits(one_server)
    visit.page.set_viewport_size({"width": width, "height": 700})
    tab = visit.open_tab()
    heights = tab.locator("main tbody tr").evaluate_all("rows => rows.map(r => r.offsetHeight)")
    assert max(heights) < 36
    first = tab.locator("main tbody tr td.run").first
    tab.locator("main").evaluate("main => main.scrollTo(10000, 0)")
    box, frame = first.bounding_box(), tab.locator("main").bounding_box()
    assert box["x"] == pytest.approx(frame["x"], abs=1)
    assert 40 < box["width"] < 0.55 * width
    assert tab.locator("body").evaluate("body => body.scrollWidth") <= width


def test_what_all_names_share_takes_no_room_and_is_in_the_title(one_tab):
    cell = one_tab.locator("td.run[title='other-seed/first_batch']")
    assert cell.inner_text().strip() == "other-seed/first_batch"
    widths = cell.locator(".name").evaluate(
        "name => [name, ...name.querySelectorAll('.common')].map(n => n.offsetWidth)"
    )
    assert widths[0] > 30
    assert widths[1:] == [0]


def test_a_chosen_run_that_cannot_be_read_says_why_in_full(one_tab):
    choose(one_tab, "damaged/first_batch")
    assert "corrupt record" in one_tab.locator("aside").inner_text()


@pytest.mark.parametrize("column", ["mean", "loss", "run"])
def test_a_click_on_a_heading_sorts_and_a_second_click_reverses(one_tab, good, column):
    heading = one_tab.locator(f"[data-column={column}]")
    values = {
        name: name.replace(":", "") if column == "run" else row[column]
        for name, row in expected_rows(good).items()
    }
    known = [n for n, v in values.items() if v is not None and v == v]
    missing = {n for n, v in values.items() if v is None}
    orders = []
    for _ in range(2):
        heading.click()
        shown = [name for name in read_table(one_tab) if name in values]
        assert set(shown[len(shown) - len(missing) :]) == missing
        orders.append([values[name] for name in shown if name in known])
    if column != "run":
        assert orders[0] == sorted(orders[0], reverse=True)
        assert orders[1] == sorted(orders[1])
    assert orders[0] == orders[1][::-1] or len(set(orders[0])) < len(orders[0])


def test_damage_and_nan_are_where_a_person_looks_for_them(one_tab):
    heading, damaged, nan = (
        one_tab.locator("[data-column=loss]"),
        "damaged/first_batch",
        "images-with-nan/first_batch",
    )
    shown = list(read_table(one_tab))
    assert shown.index("constant/first_batch") + 1 == shown.index(damaged)  # in order of the names
    heading.click()
    assert list(read_table(one_tab))[:2] == [damaged, nan]
    heading.click()
    table = read_table(one_tab)
    with_loss = [name for name, row in table.items() if row["loss"]]
    assert with_loss[-2:] == [nan, damaged]


def test_the_filter_says_how_many_runs_match_and_what_is_wrong_with_it(one_tab, logdir):
    status, box = one_tab.locator("[role=status]").first, one_tab.get_by_label("Filter runs")
    count = len(list(logdir.iterdir()))
    assert status.inner_text() == f"{count} runs"
    box.fill("no such run")
    assert status.inner_text() == f"0 of {count} runs match"
    box.fill("two-outputs")  # which has two rows
    assert status.inner_text() == f"1 of {count} runs match"
    box.fill("base(")
    text = status.inner_text()
    assert text.startswith("Invalid regular expression")
    assert text.endswith(f"searched as plain text: 0 of {count} runs match")


def test_the_filter_takes_a_regular_expression_even_half_typed(one_tab):
    everything = list(read_table(one_tab))
    box = one_tab.get_by_label("Filter runs")
    box.fill("^BASE.*repeated")
    assert list(read_table(one_tab)) == ["baseline-repeated/first_batch"]
    assert "1 of" in one_tab.locator(".status").inner_text()
    box.fill("(base")
    assert read_table(one_tab) == {}
    assert box.get_attribute("aria-invalid") == "true"
    box.fill("")
    assert list(read_table(one_tab)) == everything


def test_one_loss_or_output_of_several_can_be_shown_alone(one_tab):
    choice = one_tab.get_by_label("Loss or output")
    for name, shown in {
        "parity": ["two-outputs/first_batch: parity"],
        "g_loss": ["gan-again/first_batch: g_loss", "gan/first_batch: g_loss"],
    }.items():
        choice.select_option(name)
        names = [name for name in read_table(one_tab) if "damaged" not in name]
        assert sorted(names) == shown


def test_a_step_of_several_losses_has_a_row_per_loss(tab):
    tab.get_by_label("Filter runs").fill("^gan")
    table = read_table(tab)
    assert list(table) == [
        f"{run}/first_batch: {loss}"
        for run in ("gan-again", "gan")
        for loss in ("d_loss", "g_loss")
    ]
    assert [row["loss"] for row in table.values()] == ["1.37500", "0.875000", "1.37500", "0.750000"]
    assert [row["count"] for row in table.values()] == ["64", "", "64", ""]
    assert [row["expected"] for row in table.values()] == [*["no expectation"] * 2, "", ""]


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (
            "gan/first_batch: d_loss",
            "gan-again/first_batch: d_loss",
            "Identical bit for bit; the digests of the recordings differ.",
        ),
        (
            "gan/first_batch: g_loss",
            "gan-again/first_batch: g_loss",
            "The digests differ. The losses differ.",
        ),
        (
            "gan/first_batch: d_loss",
            "gan/first_batch: g_loss",
            "The values differ. The losses differ.",
        ),
    ],
    ids=["equal-loss", "other-loss", "one-run"],
)
def test_two_losses_are_compared_with_their_values(one_tab, one, other, text):
    choose(one_tab, one, other)
    pair = one_tab.locator("aside .pair")
    pair.locator("[role=status]").filter(has_text="differ").wait_for()
    assert pair.locator("[role=status]").inner_text() == text
    losses = {"gan/first_batch: d_loss": 1.375, "gan/first_batch: g_loss": 0.75}
    losses |= {"gan-again/first_batch: d_loss": 1.375, "gan-again/first_batch: g_loss": 0.875}
    a, b = losses[one], losses[other]
    (shown,) = [row for row in pair.locator("tbody tr").all_inner_texts() if row.startswith("Loss")]
    assert [float(cell) for cell in shown.split("\t")[1:]] == pytest.approx([a, b, b - a])


def test_a_chosen_run_shows_its_largest_losses_with_their_index(tab, good):
    choose(tab, "images-with-nan/first_batch")
    cells = tab.locator("aside .largest tbody tr").all_inner_texts()
    shown = [cell.split("\t") for cell in cells]
    values = good["images-with-nan/first_batch"].per_example.astype(np.float64)
    order = sorted(range(values.size), key=lambda i: (not np.isnan(values[i]), -values[i], i))
    assert [index for index, _ in shown] == [f"[{i}]" for i in [3, 17, 40, *order[3:10]]]
    assert [text for _, text in shown[:3]] == ["NaN"] * 3
    np.testing.assert_allclose([float(text) for _, text in shown[3:]], values[order[3:10]], 1e-5)


def test_two_equal_runs_are_identical(tab):
    choose(tab, "baseline/first_batch", "baseline-repeated/first_batch")
    verdict = tab.locator("aside .pair [role=status]").filter(has_text="Identical bit for bit")
    verdict.wait_for()


def test_two_different_runs_show_their_difference(tab, good):
    choose(tab, "baseline/first_batch", "other-seed/first_batch")
    pair = tab.locator("aside .pair")
    verdict = pair.locator("[role=status]").filter(has_text="The digests differ")
    a, b = (good[f"{run}/first_batch"] for run in ("baseline", "other-seed"))
    difference = b.per_example.astype(np.float64) - a.per_example.astype(np.float64)
    at = int(np.argmax(np.abs(difference)))
    text = verdict.inner_text()
    equal = int(np.sum(a.per_example == b.per_example))
    assert f"{equal} of {a.count} values are equal; they differ most at [{at}]" in text
    assert float(text.rstrip(".").split()[-1]) == pytest.approx(difference[at], rel=1e-5)
    rows = dict(row.split("\t", 1) for row in pair.locator("tbody tr").all_inner_texts())
    for name, one, other in (("Loss", a.loss, b.loss), ("Mean", a.mean, b.mean)):
        numbers = [float(text) for text in rows[name].split("\t")]
        assert numbers == pytest.approx(
            [float(one), float(other), float(other) - float(one)], rel=1e-4
        )


def test_two_outputs_of_one_run_are_compared_bit_for_bit(one_tab):
    choose(one_tab, "signed-zeros/first_batch: plus", "signed-zeros/first_batch: minus")
    verdict = one_tab.locator("aside .pair [role=status]").filter(has_text="The values differ")
    text = "The values differ. 1 of 2 values are equal, 1 more differs in bits alone."
    assert verdict.inner_text() == text


def test_three_chosen_runs_are_in_one_picture(one_tab):
    names = ["baseline/first_batch", "other-seed/first_batch", "weights-too-large/first_batch"]
    choose(one_tab, *names)
    assert one_tab.locator("tr.chosen .run").all_inner_texts() == names
    assert one_tab.locator("aside h2:has(.key)").all_inner_texts() == names
    lines = one_tab.locator("aside .values path")
    colors = lines.evaluate_all(
        "paths => paths.map(p => getComputedStyle(p).stroke + p.className.baseVal)"
    )
    assert len(set(colors)) == 3
    assert one_tab.locator("aside .pair").count() == 0


def test_a_click_anywhere_in_a_row_chooses_it(one_tab):
    row = one_tab.locator("tbody tr").filter(has_text=re.compile("^other-seed"))
    for target, count in [("td.histogram", 1), ("td >> nth=3", 0), (".name", 1), ("input", 0)]:
        row.locator(target).first.click()
        assert one_tab.locator("tr.chosen").count() == count


def test_what_is_shown_is_in_the_address_and_survives_a_reload(visits, server):
    visit = visits(server)
    tab = visit.open_tab()
    tab.get_by_label("Filter runs").fill("^(gan|base).*&+")
    tab.get_by_label("Filter runs").fill("^(gan|base)")
    tab.get_by_label("Loss or output").select_option("g_loss")
    tab.locator("[data-column=loss]").click()
    choose(tab, "gan-again/first_batch: g_loss", "gan/first_batch: g_loss")
    shown = tab.locator("main .run .name").all_inner_texts()
    assert shown == ["gan-again/first_batch: g_loss", "gan/first_batch: g_loss"]
    address = visit.page.url
    other = visits(server)
    other.page.goto(address)
    visit.page.reload()
    for page in (visit.page, other.page):
        tab = page.frame_locator("iframe[src*='tb_firstloss']")
        tab.locator("aside .pair").wait_for()
        assert tab.locator("main .run .name").all_inner_texts() == shown
        assert tab.get_by_label("Filter runs").input_value() == "^(gan|base)"
        assert tab.get_by_label("Loss or output").input_value() == "g_loss"
        assert page.url == address


def test_a_link_followed_while_the_page_is_open_is_shown(visits, one_server):
    visit = visits(one_server)
    tab = visit.open_tab()
    visit.page.evaluate("location.hash = '#tb_firstloss&p.tb_firstloss.filter=seed'")
    tab.locator("tbody tr").nth(1).wait_for(state="detached")
    assert list(read_table(tab)) == ["other-seed/first_batch"]


def test_what_is_shown_can_be_copied_and_saved(visits, one_server, good):
    visit = visits(one_server, permissions=["clipboard-read"])
    tab = visit.open_tab()
    tab.get_by_label("Filter runs").fill("nan|damaged|gan/")
    with visit.page.expect_download() as saved:
        tab.get_by_role("button", name="CSV").click()
    tab.get_by_role("button", name="Copy").click()
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    text = Path(saved.value.path()).read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows == list(csv.DictReader(io.StringIO(copied), delimiter="\t"))
    by_name = {(row["Run"], row["Loss or output"]): row for row in rows}
    assert "corrupt" in by_name["damaged/first_batch", ""]["Problem"]
    nan = by_name["images-with-nan/first_batch", "loss"]
    assert (nan["Loss"], nan["Non-finite"]) == ("NaN", "3")
    assert float(nan["Mean"]) == good["images-with-nan/first_batch"].mean
    assert by_name["gan/first_batch", "g_loss"]["Loss"] == "0.75"
    assert len(rows) == 4


def test_histograms_share_one_axis_and_count_every_value(one_tab, good):
    ends = [float(t) for t in one_tab.locator("thead .axis span").all_inner_texts()]
    largest = max(first.max for first in good.values() if len(first.outputs) == 1)
    assert ends[1] < largest  # the run far off does not squeeze the others …
    far_off = one_tab.locator("tr", has_text="weights-too-large")
    assert far_off.locator("svg .beyond").count() == 1  # … and is marked as going further
    box = one_tab.locator("tr", has_text="other-seed").locator("svg path").bounding_box()
    assert box["height"] > 15
    assert box["width"] < 90  # its values lie in a part of the axis


@pytest.mark.parametrize(
    ("title", "place"),
    [("Profile", "#profile"), ("Graph", "#graphs"), ("Report", "#text")],
)
def test_links_lead_to_the_run_in_the_other_tabs(visits, one_server, title, place):
    visit = visits(one_server)
    tab = visit.open_tab()
    choose(tab, "baseline/first_batch")
    link = tab.locator("aside nav").get_by_text(title)
    link.wait_for()
    href = link.get_attribute("href")
    assert href.startswith(one_server.address)
    assert place in href
    assert "baseline" in href
    assert link.get_attribute("target") == "_parent"
    if title == "Report":
        link.click()
        card = visit.page.locator("tf-text-loader")
        card.get_by_text("First batch").first.wait_for()
        assert card.count() == 1


def test_the_graph_link_opens_the_graph_of_its_run(visits, server):
    visit = visits(server)
    tab = visit.open_tab()
    runs = ["two-outputs/first_batch", "baseline/first_batch"]  # the latter is the logdir's first
    for run in [*runs, runs[0]]:  # from the second on, the dashboard is there already
        box = tab.locator("tbody tr").filter(has_text=re.compile(f"^{run}")).first.locator("input")
        box.check()
        tab.locator("aside nav").get_by_text("Graph").click()
        menu = visit.page.locator("tf-graph-controls paper-dropdown-menu").first
        visit.page.wait_for_function(
            "([menu, run]) => menu.value === run", arg=[menu.element_handle(), run]
        )
        only_there = visit.page.locator("tf-graph-scene text", has_text="logistic_loss")
        only_there.first.wait_for(state="attached" if run == runs[0] else "detached")
        visit.page.locator(".plugin-name[data-plugin-id=tb_firstloss]").click()
        box.uncheck()


def test_a_run_without_graph_and_profile_has_no_links_to_them(one_tab):
    choose(one_tab, "other-seed/first_batch")
    one_tab.locator("aside nav a").first.wait_for()
    assert one_tab.locator("aside nav a").all_inner_texts() == ["Report"]


def test_it_follows_tensorboards_theme(visits, one_server):
    visit = visits(one_server)
    tab = visit.open_tab()
    colors = []
    for dark in (False, True):
        visit.page.evaluate(f"document.body.classList.toggle('dark-mode', {str(dark).lower()})")
        style = tab.locator("body").evaluate(
            "async body => (await new Promise(requestAnimationFrame), getComputedStyle(body))"
            ".backgroundColor"
        )
        colors.append(sum(map(int, re.findall(r"\d+", style)[:3])))
    assert colors[0] > 600
    assert colors[1] < 300


def test_the_keyboard_reaches_everything(visits, one_server):
    visit = visits(one_server)
    tab = visit.open_tab()
    tab.get_by_label("Filter runs").focus()
    visit.page.keyboard.press("Tab")  # to the choice of the output
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    assert tab.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    for _ in COLUMNS:
        visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Space")
    assert tab.locator("tr.chosen").count() == 1
    assert tab.locator("aside section").first.is_visible()


@pytest.fixture
def empty_logdir(tmp_path, browser_or_skip):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


# A tab with recordings polls every ten seconds; without that, only a click shows what is new.
WITHOUT_SLOW_TIMERS = """
  const { setTimeout } = window;
  window.setTimeout = (f, millis, ...rest) => millis >= 10000 || setTimeout(f, millis, ...rest);
"""


@pytest.mark.parametrize("flags", SERVERS.values(), ids=SERVERS)
def test_where_there_is_nothing_to_choose_there_is_no_choice(visits, empty_logdir, flags):
    FirstLoss(empty_logdir, on_error="raise").record(np.array([1.0, 2.0]))
    with (
        tensorboard(empty_logdir, *flags) as server,
        contextlib.closing(visits(server)) as visit,
    ):
        tab = visit.open_tab()
        assert tab.get_by_label("Filter runs").is_visible()
        assert not tab.get_by_label("Loss or output").is_visible()


def test_a_recording_appears_without_reloading_the_page(visits, empty_logdir):
    with (
        tensorboard(empty_logdir, "--reload_interval", "1") as server,
        contextlib.closing(visits(server)) as visit,
    ):
        visit.page.add_init_script(WITHOUT_SLOW_TIMERS)
        visit.go("#tb_firstloss")
        tab = visit.page.frame_locator("iframe[src*='tb_firstloss']")
        tab.get_by_text("No first-batch loss recorded here yet").wait_for()
        FirstLoss(empty_logdir, on_error="raise").record(np.array([1.0, 2.0]))
        tab.locator("tbody tr", has_text="first_batch").wait_for()
        tab.locator("tbody input").check()
        FirstLoss(empty_logdir, on_error="raise").record(np.array([5.0]))
        server.await_json(
            "data/plugin/tb_firstloss/recordings", lambda found: len(found["recordings"]) == 2
        )
        visit.page.locator(".reload-button").click()
        tab.locator("tbody tr", has_text="first_batch-2").wait_for()
        assert tab.locator("tr.chosen .run").inner_text() == "first_batch"


# An observer is called at the end of each task; until then, the page does not respond.
COUNT_ROWS_PER_TASK = """
  window.mostRows = 0;
  new MutationObserver((changes) => {
    const added = changes.flatMap((change) => [...change.addedNodes]);
    const rows = added.filter((node) => node.nodeName === "TR").length;
    window.mostRows = Math.max(window.mostRows, rows);
  }).observe(document, { childList: true, subtree: true });
"""


def test_a_thousand_runs_do_not_freeze_the_page(visits, empty_logdir):
    FirstLoss(empty_logdir, expect=2.3, on_error="raise").record(
        np.random.default_rng(0).normal(2.3, 0.2, 128)
    )
    for number in range(999):
        shutil.copytree(empty_logdir / "first_batch", empty_logdir / f"run-{number}")
    with (
        tensorboard(empty_logdir) as server,
        contextlib.closing(visits(server)) as visit,
    ):
        server.await_json("data/runs", lambda runs: len(runs) == 1000)
        server.await_json(
            "data/plugin/tb_firstloss/recordings", lambda found: len(found["recordings"]) == 1000
        )
        visit.page.add_init_script(COUNT_ROWS_PER_TASK)
        tab = visit.open_tab()
        tab.locator("tbody tr").nth(999).wait_for()
        tab.locator("[data-column=mean]").click()
        tab.get_by_label("Filter runs").fill("run-99")
        tab.locator("tbody tr").nth(10).wait_for(state="detached")
        assert tab.locator("tbody tr").count() == 10
        assert 10 < tab.locator("body").evaluate("() => window.mostRows") <= 100
