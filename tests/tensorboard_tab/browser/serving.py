"""A real TensorBoard, and a real browser that may contact nothing else."""

import contextlib
import dataclasses
import gzip
import json
import shutil
import time
import urllib.parse
import urllib.request
from importlib import metadata

from tb_firstloss.cli.commands.open import serve

CHROMIUM_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WITHOUT_TENSORFLOW = (
    "-c",
    "import sys; sys.modules['tensorflow'] = None\n"
    "from tensorboard.main import run_main; run_main()",
)
"""Starts TensorBoard as if TensorFlow were not installed, in a fifth of the time and memory."""

TIMEOUT_SECONDS = 120
"""How long anything may take on a busy machine."""


def what_is_missing():
    """Returns what this machine lacks for a browser test, or None."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install playwright"
    if find_chromium() is None:
        return "chromium is not installed: apt-get install chromium"
    names = [point.name for point in metadata.entry_points(group="tensorboard_plugins")]
    if "tb_firstloss" not in names:
        return "TensorBoard cannot find the tab: pip install --editable ."
    return None


def find_chromium():
    """Returns the path of an installed Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@dataclasses.dataclass
class Server:
    """A running TensorBoard.

    Attributes:
        address: Where its pages are, with a slash at the end.
        process: Its process.
    """

    address: str
    process: object

    def get(self, path):
        """Returns the bytes at a path."""
        with urllib.request.urlopen(self.address + path, timeout=TIMEOUT_SECONDS) as response:
            body = response.read()
            return gzip.decompress(body) if response.headers["Content-Encoding"] else body

    def get_json(self, path, **query):
        """Returns the JSON at a path."""
        return json.loads(self.get(f"{path}?{urllib.parse.urlencode(query)}"))

    def await_json(self, path, ready, **query):
        """Polls until the answer is ready: TensorBoard reads the logdir in the background."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not ready(found := self.get_json(path, **query)):
            assert time.monotonic() < deadline, f"{path} still answers {str(found)[:300]}"
            time.sleep(0.1)
        return found


@contextlib.contextmanager
def tensorboard(logdir, *flags, command=WITHOUT_TENSORFLOW):
    """Runs TensorBoard on a free port."""
    with serve(str(logdir), "--port", "0", *flags, command=command) as (address, process):
        yield Server(address, process)


class Visit:
    """A page of a fresh browser context.

    Attributes:
        page: Playwright's page.
        errors: Errors in the page's console, and its uncaught exceptions.
        strangers: Addresses that the page requested outside this TensorBoard.
    """

    def __init__(self, browser, server, **options):
        self.server = server
        self.errors, self.strangers = [], []
        context = browser.new_context(viewport={"width": 1400, "height": 800}, **options)
        context.set_default_timeout(1000 * TIMEOUT_SECONDS)
        context.route("**/*", self._decide)
        self.page = context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)

    def go(self, place):
        """Opens a place in TensorBoard, as a click on a link does."""
        self.page.goto("about:blank")
        self.page.goto(self.server.address + place)
        return self.page

    def open_tab(self):
        """Opens the First loss tab, waits for its table, and returns its frame."""
        self.go("#tb_firstloss")
        frame = self.page.frame_locator("iframe[src*='tb_firstloss']")
        frame.locator("tbody tr").first.wait_for()
        return frame

    def close(self):
        """Closes the page, which polls its server until then, even one that is gone."""
        self.page.context.close()

    def _decide(self, route):
        url = route.request.url
        origin = urllib.parse.urljoin(self.server.address, "/")
        if url.startswith((origin, "data:", "blob:", "about:")):
            route.continue_()
        else:
            self.strangers.append(url)
            route.abort()

    def _hear(self, message):
        # TensorBoard 2.21 requests its font from the root, whatever the path prefix.
        if message.type == "error" and "/font-roboto/" not in message.location["url"]:
            self.errors.append(message.text)
