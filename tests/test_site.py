"""The documentation as a site: built without a warning, and needing nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flops_fit

ROOT = Path(__file__).parents[1]

FETCHED = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)"""
)
"""What a browser loads by itself; links that a reader may follow are none of these."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--quiet", "--config-file", ROOT / "mkdocs.yml", "-d", folder]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    found = {}
    for page in site.rglob("*.html"):
        found |= dict.fromkeys(FETCHED.findall(page.read_text(encoding="utf-8")), page.name)
    assert not found
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?https?:", style.read_text("utf-8")), style


@pytest.mark.slow
def test_formulas_are_drawn_by_the_browser(site):
    page = (site / "methods.html").read_text(encoding="utf-8")
    assert page.count("<math") >= 10
    assert "arithmatex" not in page


@pytest.mark.slow
def test_every_public_name_has_its_entry_with_words(site):
    page = (site / "python.html").read_text(encoding="utf-8")
    for name in flops_fit.__all__:
        _, found, rest = page.partition(f'id="flops_fit.{name}"')
        assert found, name
        assert re.search(r"<p>[^<]{10}", rest[:6000]), f"{name} is not described"
