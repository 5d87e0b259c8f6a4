"""A real headless Chromium, where there is one: the DOM of a page after its scripts ran."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")

BINARY = next(filter(None, map(shutil.which, NAMES)), None)

QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--no-first-run", "--no-default-browser-check", "--hide-scrollbars",
    "--enable-logging=stderr", "--virtual-time-budget=8000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip

LIGHT, DARK = ((f"--blink-settings=preferredColorScheme={n}",) for n in (1, 0))

TIMEOUT = 90


@dataclass(frozen=True)
class Seen:
    """What became of a page: its document, what its console says, and what it asked for."""

    html: str
    console: tuple[str, ...]
    asked: tuple[str, ...]


ASKED = """
document.body.dataset.asked = JSON.stringify(
  performance.getEntriesByType("resource").map((one) => one.name));
"""


def seen(page: Path, folder: Path, *, then: str = "") -> Seen:
    """A page opened with nothing cached; `then` is a script that runs at its end."""
    page = with_script(page, folder / f"{page.stem}-then.html", then + ASKED)
    done = run(page, folder, "--window-size=1100,1200", "--dump-dom")
    console = tuple(re.findall(r"CONSOLE.*?\] (.*)", done.stderr))
    ((body, _),) = Elements(done.stdout).of("body")
    return Seen(done.stdout, console, tuple(json.loads(body["data-asked"] or "")))


FRAME = """<!doctype html><body>
<iframe src="{name}" style="width:{width}px;height:1200px;border:0"></iframe>
<script>
addEventListener("message", (said) => {{ document.body.dataset.said = said.data }});
</script>
</body>"""


def measured(
    page: Path, folder: Path, script: str, *, width: int, flags: Sequence[str]
) -> dict[str, Any]:
    """What a script returns in a page of that width and theme: in a frame, since no window of a
    Chromium is as narrow as a phone."""
    told = f"parent.postMessage(JSON.stringify((() => {{ {script} }})()), '*');"
    inner = with_script(page, folder / "inner.html", told)
    outer = folder / "outer.html"
    outer.write_text(FRAME.format(name=inner.name, width=width), encoding="utf-8")
    done = run(outer, folder, *flags, "--window-size=1400,1300", "--dump-dom")
    ((body, _),) = Elements(done.stdout).of("body")
    return json.loads(body["data-said"] or "")


def screenshot(page: Path, to: Path, *, width: int, height: int, flags: Sequence[str]) -> None:
    """What a screen of that size shows, in one of the two themes."""
    run(page, to.parent, *flags, f"--window-size={width},{height}", f"--screenshot={to}")


def run(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    profile = folder / "profile"
    done = subprocess.run(
        [str(BINARY), *QUIET, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()],
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def with_script(page: Path, to: Path, script: str) -> Path:
    """A copy of a page with one more script at its end."""
    text = page.read_text(encoding="utf-8")
    to.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return to


class Elements(HTMLParser):
    """All elements of a document: tag, attributes, and the text inside."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        if tag not in ("meta", "br", "hr", "img", "input", "link"):
            self._open.append(len(self.found) - 1)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.found[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.found[place][2].append(data)

    def of(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of each such element whose attributes are as wanted."""
        return [
            (attrs, "".join(text))
            for name, attrs, text in self.found
            if name == tag and all(attrs.get(k) == v for k, v in wanted.items())
        ]


def embedded_data(html: str) -> dict:
    """The data of a page, as its scripts read them."""
    ((_, text),) = Elements(html).of("script", id="data")
    return json.loads(text)


def at(document: dict, pointer: str) -> object:
    """What stands at a JSON pointer."""
    value: object = document
    for step in pointer.split("/")[1:]:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value
