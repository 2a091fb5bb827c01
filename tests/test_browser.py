"""Chromium as a client: a page of another origin downloads through the master's redirect to a node."""

from __future__ import annotations

import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.support.masters import ShimMaster
from tests.support.nodes import run_node
from tests.support.packages import make_documents, make_package
from tests.support.waiting import eventually_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.support.packages import Package
    from tests.support.processes import Spawner

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)

PAGE = b"""<!doctype html><meta charset="utf-8"><title>tablet</title><a id="link" download>get</a>
<script>
async function get(url) {
  const response = await fetch(url);
  const total = Number(response.headers.get("Content-Length"));
  const reader = response.body.getReader();
  const parts = [], seen = [];
  let received = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    parts.push(value);
    received += value.length;
    seen.push(received / total);
  }
  const whole = new Uint8Array(await new Blob(parts).arrayBuffer());
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  return {
    status: response.status, redirected: response.redirected, url: response.url, total, received, seen,
    etag: response.headers.get("ETag"), name: response.headers.get("Content-Disposition"),
    promised: response.headers.get("Repr-Digest"), sha256: btoa(String.fromCharCode(...digest)),
  };
}
async function digest(url) {
  const response = await fetch(url, {headers: {"Want-Repr-Digest": "sha-256=1"}});
  return response.headers.get("Repr-Digest");
}
</script>"""


class PageHandler(BaseHTTPRequestHandler):
    """Serves the one page, from an origin that is neither the master's nor a node's."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def origin() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), PageHandler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(origin: str) -> Iterator[Page]:
    if shutil.which(CHROMIUM) is None:
        pytest.fail(f"there is no {CHROMIUM}; install it, or name another in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        try:
            found = browser.new_page(accept_downloads=True)
            found.goto(origin)
            yield found
        finally:
            browser.close()


@pytest.fixture
def package(tmp_path: Path) -> Package:
    (tmp_path / "packages").mkdir()
    return make_package(tmp_path / "packages" / "m1.zip", make_documents(8, 1_000_000), level=1)


@pytest.fixture
def master(spawn: Spawner, tmp_path: Path, package: Package) -> ShimMaster:
    master = ShimMaster(spawn, tmp_path / "packages")
    run_node(spawn, master.url, tmp_path / "storage")
    # Wait until the master redirects clients to the node.
    eventually_blocking(lambda: master.get(PATH).status_code == 302, within=20, what="a redirect")
    return master


PATH = "/api/v1/meetings/m1/download-package"


def test_fetch_follows_the_redirect_with_progress_and_gets_every_byte(
    page: Page, master: ShimMaster, package: Package
) -> None:
    found = page.evaluate("url => get(url)", f"{master.url}{PATH}")
    assert (found["status"], found["redirected"]) == (200, True)
    assert not found["url"].startswith(master.url)
    assert found["total"] == found["received"] == package.size
    assert len(found["seen"]) > 1
    assert found["seen"][-1] == 1.0
    assert found["seen"] == sorted(found["seen"])
    # Headers that another origin's script may read.
    assert found["etag"] == f'"{package.digest}"'
    assert "meeting_m1.zip" in found["name"]
    # A non-standard header needs a preflight, here at the node (a redirect from the master would answer it as well).
    assert page.evaluate("url => digest(url)", found["url"]) == f"sha-256=:{found['sha256']}:"


def test_a_click_saves_the_package_under_its_name(
    page: Page, master: ShimMaster, package: Package, tmp_path: Path
) -> None:
    page.evaluate("url => { document.getElementById('link').href = url }", f"{master.url}{PATH}")
    with page.expect_download() as waiting:
        page.click("#link")
    download = waiting.value
    saved = tmp_path / "saved.zip"
    download.save_as(saved)
    assert download.failure() is None
    assert download.suggested_filename == "meeting_m1.zip"
    assert saved.read_bytes() == package.path.read_bytes()
