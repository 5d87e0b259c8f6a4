"""What README, the documentation and the examples tell readers to type is typed here, in small."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from from_scripts import loaded

import flops_fit
from flops_fit.cli import main
from flops_fit.cli.exit_codes import NO_LAW, OK

pages = loaded("pages")
gather_figures = loaded("gather_figures")

ROOT = Path(__file__).parents[1]
STUDIES = Path(__file__).parent / "assets" / "studies"

NAMES = [page.relative_to(ROOT).as_posix() for page in pages.pages()]
SHOULD_RUN = [
    name
    for name in NAMES
    if any(b.is_run and not b.title and b.language in ("bash", "python")
           for b in pages.blocks(ROOT / name))
]  # fmt: skip

EXPECTED = {
    "docs/from-python.md": [
        "14 runs at 2 budgets",
        "Prediction(",
        "Study mlp-toy: 11 runs",
        "interrupted\n6 runs, 6 completed",
    ],
}
"""Page -> what each of its scripts prints."""

FILES_OF_EXAMPLES = {
    "docs/from-python.md": "from_python",
    "docs/own-model.md": "own_model",
    "docs/own-script.md": "own_script",
}
"""Page -> the example whose files and commands are its own, and run there."""

ELSEWHERE = {"examples/README.md"}  # tests/fitting/test_examples.py
ELSEWHERE |= {f"examples/{folder}/README.md" for folder in FILES_OF_EXAMPLES.values()}

RUN = [name for name in SHOULD_RUN if name not in ELSEWHERE]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", beside)  # `python` of a trainer's command
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", str(ROOT)))
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


def given(name: str, folder: Path) -> None:
    """What the page takes to be there already."""
    pages.prepare(folder)
    if name.startswith("examples/") and name.count("/") > 1:
        shutil.copytree((ROOT / name).parent, folder, dirs_exist_ok=True)
    if name in ("docs/from-python.md", "docs/published-laws.md", "docs/collapse.md"):
        shutil.copytree(STUDIES / "toy", folder / "outputs/mlp-toy", symlinks=True)
    if name == "docs/from-python.md":
        (runs,) = STUDIES.glob("toy/plans/*/runs.csv")
        table = runs.read_text(encoding="utf-8").replace(",loss,", ",val_loss,", 1)
        (folder / "runs.csv").write_text(table, encoding="utf-8")


ONE_WORKER = ["workers=1", "threads=1", "kernels={matmul: default, attention: fused}"]
"""No trial of what is fastest: these runs are too short to gain by it."""


def small(words: list[str], added: list[str]) -> list[str]:
    """The command with a test's words in place of those of the same setting."""
    if words[1] in ("train", "verify"):
        added = [*ONE_WORKER, *added]
    if words[1] not in ("train", "verify", "plan"):
        added = []
    names = {word.partition("=")[0] for word in added}
    return [*(w for w in words if w.partition("=")[0] not in names), *added]


def typed(block, words: list[str], folder: Path) -> list[str]:
    """Runs one command line of a page; what a script prints. A sweep made small may give no law."""
    if words[0] == "flops-fit":
        words = small(words, block.words)
        assert main(words[1:]) in ((OK, NO_LAW) if block.words else (OK,)), words
        return []
    assert words[0] == "python", f"a test can't run {words}"
    return [python(words[1:], folder)]


def python(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_what_a_page_says_can_be_typed(name, folder):
    given(name, folder)
    printed = []
    for block in pages.blocks(ROOT / name):
        if not block.is_run:
            continue
        if block.title:
            pages.keep_file(block, folder)
        elif block.language == "python":
            printed.append(python(["-c", block.text], folder))
        elif block.language == "bash":
            for words in pages.commands(block.text):
                printed += typed(block, words, folder)
    expectations = EXPECTED.get(name, [""] * len(printed))
    for output, expected in zip(printed, expectations, strict=True):
        assert expected in output


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says_today(tmp_path):
    """But for figures, whose pixels are those of a version of matplotlib."""
    notebook = ROOT / "examples/forecast.ipynb"
    today = json.loads(pages.with_outputs(notebook, tmp_path / "examples"))
    assert printed_by(today) == printed_by(json.loads(notebook.read_text(encoding="utf-8")))


def printed_by(notebook) -> list[str]:
    """Text on stdout, cell by cell."""
    return [
        "".join(output["text"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    ]


def test_every_page_that_can_be_run_is_run():
    begin = {"tutorial", "own-table", "own-model", "own-script", "own-text", "from-python"}
    assert {f"docs/{page}.md" for page in begin} < {*RUN}
    folders = {path.name for path in (ROOT / "examples").iterdir() if (path / "README.md").exists()}
    assert {f"examples/{folder}/README.md" for folder in folders} < {*RUN, *ELSEWHERE}


@pytest.mark.parametrize("name", NAMES)
def test_a_block_that_is_not_run_says_why(name):
    for block in pages.blocks(ROOT / name):
        if not block.is_run:
            assert len(block.said.removeprefix("not run:").split()) > 1, block.text


@pytest.mark.parametrize("name", FILES_OF_EXAMPLES)
def test_files_of_a_page_are_those_of_its_example(name):
    example = ROOT / "examples" / FILES_OF_EXAMPLES[name]
    shown = {b.title: b.text for b in pages.blocks(ROOT / name) if b.title}
    files = [f for f in example.rglob("*") if f.suffix in (".py", ".yaml")]
    assert files
    for file in files:
        assert shown[file.relative_to(example).as_posix()] == file.read_text(encoding="utf-8")
    assert commands_of(f"examples/{example.name}/README.md") <= commands_of(name)


def commands_of(name: str) -> set[tuple[str, ...]]:
    """What is typed there and run here."""
    shell = [b.text for b in pages.blocks(ROOT / name) if b.is_run and b.language == "bash"]
    return {tuple(words) for text in shell for words in pages.commands(text)}


def test_the_python_page_has_every_public_name():
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    assert re.findall(r"^::: flops_fit\.(\w+)$", page, re.MULTILINE) == flops_fit.__all__


def test_gathered_figures_are_those_of_the_pages_they_come_from(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gather_figures.py", "--check"])
    assert gather_figures.main() == 0, capsys.readouterr().out


def test_commands_of_ci_stand_in_readme():
    """`.ci/run` and people copy these two lines."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt "
    assert f"{start}. && .venv/bin/flops-fit train model=mlp dataset=toy" in lines
    assert [line for line in lines if "-e '.[dev]'" in line] == [
        f"{start}-e '.[dev]' && .venv/bin/pytest -n auto --maxprocesses=4"
    ]
