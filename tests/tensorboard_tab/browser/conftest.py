"""One set of runs, one TensorBoard of each kind and one browser for all browser tests."""

import contextlib
import os
import shutil

import numpy as np
import pytest

from tests.tensorboard_tab.browser import serving

SERVERS = {
    "data-server": ["--load_fast", "true", "--path_prefix", "/some/prefix"],
    "in-process": ["--load_fast", "false"],
}
"""TensorBoard's two ways of reading a logdir; one of them below a path prefix."""

HOSTILE_RUN = "<img src=x onerror=alert(1)>"
HOSTILE_OUTPUT = "<script>alert(2)</script>"
GAN_FACTS = {"expected_loss": 0.7}
"""One number, which is about neither of two losses."""


@pytest.fixture(scope="session", autouse=True)
def browser_or_skip():
    """Skips without a browser; fails if CI=true."""
    missing = serving.what_is_missing()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def logdir(browser_or_skip, tmp_path_factory):
    """Good runs, one with a hostile name, and one whose exact values are damaged on disk."""
    from tb_firstloss import FirstLoss
    from tb_firstloss.errors import UnexpectedLossError
    from tests.helpers.recorded import write_losses
    from tests.tensorboard_tab.browser.runs import train_runs

    logdir = tmp_path_factory.mktemp("logdir")
    train_runs(logdir)
    FirstLoss(logdir / HOSTILE_RUN, on_error="raise").record(
        {HOSTILE_OUTPUT: np.array([1.0, 2.0]), "plain": np.array([3.0])}
    )
    with contextlib.suppress(UnexpectedLossError):
        constant = FirstLoss(logdir / "constant", expect=2.5, on_error="raise")
        constant.record(np.full(8, 2.5))
    FirstLoss(logdir / "signed-zeros", on_error="raise").record(
        {"plus": np.array([0.0, 1.0]), "minus": np.array([-0.0, 1.0])}
    )
    gan = {"d_loss": np.random.default_rng(0).gamma(4.0, 0.3, 64).astype(np.float32)}
    write_losses(logdir / "gan", {"d_loss": 1.375, "g_loss": 0.75}, gan)
    write_losses(logdir / "gan-again", {"d_loss": 1.375, "g_loss": 0.875}, gan, metadata=GAN_FACTS)
    shutil.copytree(logdir / "other-seed", logdir / "damaged")
    (file,) = (logdir / "damaged" / "first_batch").glob("events*")
    content = bytearray(file.read_bytes())
    content[content.index(b"tensors/outputs/per_example/per_example") + 100] ^= 1
    file.write_bytes(content)
    return logdir


@pytest.fixture(scope="session")
def good(logdir):
    """The readable recordings by run, as this package's reader reads them."""
    from tb_firstloss.reading.recordings import read_first_losses

    with pytest.warns(UserWarning, match="damaged"):
        return read_first_losses(logdir)


@pytest.fixture(scope="session")
def start(logdir):
    """Starts each kind of TensorBoard at most once, and waits until it has read all runs."""
    running = {}

    def start(kind):
        if kind not in running:
            manager = serving.tensorboard(logdir, *SERVERS[kind])
            running[kind] = manager, manager.__enter__()
            has_all_runs(running[kind][1], logdir)
        return running[kind][1]

    yield start
    for manager, _ in running.values():
        manager.__exit__(None, None, None)


def has_all_runs(server, logdir):
    count = len(list(logdir.iterdir()))
    server.await_json("data/runs", lambda runs: len(runs) == count)
    # A run's report is read last; the other summaries are there by then.
    server.await_json(
        "data/plugin/text/tags", lambda tags: len([r for r in tags if tags[r]]) >= count - 1
    )


@pytest.fixture(params=SERVERS)
def server(request, start):
    """Each kind of TensorBoard in turn."""
    return start(request.param)


@pytest.fixture
def one_server(start):
    """One TensorBoard, for tests to which the kind makes no difference."""
    return start("data-server")


@pytest.fixture(scope="session")
def browser(browser_or_skip, chromium):
    """One browser process per worker."""
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * serving.TIMEOUT_SECONDS)
    return chromium


@pytest.fixture
def visits(browser):
    """Opens pages; at the end, none may have logged an error or contacted anyone else."""
    opened = []

    def visit(server, **options):
        opened.append(serving.Visit(browser, server, **options))
        return opened[-1]

    yield visit
    for visit in opened:
        visit.close()
        assert visit.strangers == []
        assert visit.errors == []
