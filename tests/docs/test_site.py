"""make docs builds a site without a warning, and nobody who reads it asks anyone else."""

import contextlib
import functools
import http.server
import os
import re
import subprocess
import sys
import threading

import pytest

from tests.docs.pages import REPOSITORY

pytestmark = pytest.mark.slow
PAGES = ["", "api/", "cli/", "changelog/", "benchmarks/"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *given):
        pass


@contextlib.contextmanager
def serving(folder):
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("width", [1400, 390], ids=["wide", "phone"])
def test_pages_ask_nobody_else_and_fit_the_screen(site, chromium, width):
    asked, said = [], []
    with serving(site) as address:
        page = chromium.new_page(viewport={"width": width, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        for path in PAGES:
            page.goto(address + path, wait_until="networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.close()
    assert len(asked) > len(PAGES)
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert said == []


def test_the_api_page_has_every_public_name(site):
    import tb_firstloss

    html = (site / "api/index.html").read_text(encoding="utf-8")
    anchors = set(re.findall(r'id="tb_firstloss\.([\w.]+)"', html))
    names = {name for name in tb_firstloss.__all__ if not name.startswith("_")}
    assert names - anchors == set()


def test_the_changelog_is_that_of_the_repository(site):
    html = (site / "changelog/index.html").read_text(encoding="utf-8")
    assert "First version." in html
    assert (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8").count("\n## ") == html.count(
        "<h2 "
    )
