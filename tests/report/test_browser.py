"""Both pages in a real browser: what is seen of them, and what they ask the network for."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import find_chromium
from projects import Project

pytestmark = pytest.mark.slow

GROUND = {"light": (246, 247, 249), "dark": (15, 19, 24)}
"""RGB of the page beside its sections, as in palette.css."""
HEIGHT = 9000


@pytest.fixture(scope="module")
def pages(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of an evaluated run, and that of its export."""
    copy = tmp_path_factory.mktemp("pages") / "project"
    shutil.copytree(trained_once, copy)
    project = Project(copy)
    assert project.run("evaluate.py", "--read_from", "progress/test").code == 0
    assert project.deploy().code == 0
    return {name: copy / name / "test" / "report.html" for name in ("progress", "deploy")}


def chromium(folder: Path, url: str, *flags: str) -> str:
    """Have the browser open ``url`` and do what ``flags`` say; return what it prints."""
    fixed = [
        "--headless",
        "--no-sandbox",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command = [find_chromium(), *fixed, *flags, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize("name", ["progress", "deploy"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (400, "light")])
def test_it_is_drawn(
    pages: dict[str, Path], tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    shot = tmp_path / "shot.png"
    flags = [
        f"--window-size={width},{HEIGHT}",
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
    ]
    chromium(tmp_path, pages[name].as_uri(), *flags, f"--screenshot={shot}")
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (HEIGHT, width, 3)
    is_ground = (pixels == GROUND[scheme]).all(-1)
    # Nothing is wider than the window, and the page has an end.
    assert is_ground[:, :6].all()
    assert is_ground[:, -6:].all()
    assert is_ground[-1].all()
    drawn = pixels[~is_ground]
    assert len(drawn) > 0.1 * is_ground.size
    assert len(np.unique(drawn, axis=0)) > 500


@pytest.mark.parametrize("name", ["progress", "deploy"])
def test_the_browser_reads_it_as_it_was_written(
    pages: dict[str, Path], tmp_path: Path, name: str
) -> None:
    source = pages[name].read_text()
    read = chromium(tmp_path, pages[name].as_uri(), "--dump-dom")
    for element in ("section", "table", "tr", "td", "svg", "path", "text", "img", "figure"):
        assert read.count(f"<{element}") == source.count(f"<{element}"), element
    assert "Content-Security-Policy" in read


class Proxy(http.server.ThreadingHTTPServer):
    """Answers every request for page.test with a page, and keeps what was asked for."""

    def __init__(self, page: bytes) -> None:
        self.asked: list[str] = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.asked.append(self.path)
                is_page = self.path == "http://page.test/report.html"
                self.send_response(200 if is_page else 404)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page if is_page else b"")

            def do_CONNECT(self) -> None:
                proxy.asked.append(self.path)
                self.send_error(502)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def asked_for(page: str, folder: Path) -> set[str]:
    """Return the browser's requests for ``page``, without those to its maker."""
    with Proxy(page.encode()) as proxy:
        flags = (
            f"--proxy-server=http://127.0.0.1:{proxy.server_port}",
            f"--screenshot={folder / 'shot.png'}",
        )
        chromium(folder, "http://page.test/report.html", *flags)
    return {url for url in proxy.asked if ".test" in url or "example" in url}


OTHERS = (
    '<img src="http://elsewhere.test/a.png" />'
    '<link rel="stylesheet" href="http://elsewhere.test/b.css" />'
    '<script src="http://elsewhere.test/c.js"></script><iframe src="http://elsewhere.test/d"></iframe>'
    '<script>new Image().src = "http://elsewhere.test/e"</script>'
)


@pytest.mark.parametrize("name", ["progress", "deploy"])
def test_it_loads_nothing_and_could_not(pages: dict[str, Path], tmp_path: Path, name: str) -> None:
    alone = {"http://page.test/report.html"}
    source = pages[name].read_text()
    assert asked_for(source, tmp_path) - {"http://page.test/favicon.ico"} == alone
    # The same page with references to others: its own policy keeps the browser from following them.
    smuggled = source.replace("</main>", f"{OTHERS}</main>")
    assert asked_for(smuggled, tmp_path) - {"http://page.test/favicon.ico"} == alone
    without = smuggled.replace("Content-Security-Policy", "nothing")
    assert {url[-5:] for url in asked_for(without, tmp_path)} >= {
        "a.png",
        "b.css",
        "/c.js",
        "est/d",
        "est/e",
    }
