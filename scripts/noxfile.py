"""The fast tests on every Python and with the oldest packages that pyproject.toml promises.

    nox -f scripts/noxfile.py              what scripts/full_check runs
    nox -f scripts/noxfile.py -s all-3.12  all fast tests on another Python

For Python 3.11 pip may find a build of torch for CPUs; `all-3.12` and `all-3.13` download torch
with its CUDA packages, five gigabytes on disk for each. Unasked these two Pythons get the tests
that need no torch.
"""

import re
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FAST = ("-q", "-m", "not slow", "-p", "no:cacheprovider")

TORCH_FREE = (
    "tests/fitting",
    "tests/test_comparison.py",
    "tests/test_laws.py",
    "tests/test_light_core.py",
    "tests/test_planning.py",
    "tests/test_processes.py",
    "tests/test_report.py",
    "tests/test_runs.py",
    "tests/test_schedules.py",
)
"""Tests of the half that works where torch can't be imported."""

nox.options.sessions = ["all-3.11", "torch_free", "lowest"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.envdir = str(ROOT / ".venv-nox")


@nox.session(name="all", python=["3.11", "3.12", "3.13"])
def everything(session: nox.Session) -> None:
    """All fast tests with the versions of constraints.txt."""
    session.chdir(ROOT)
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    session.run("python", "-m", "pytest", *FAST, *session.posargs)


@nox.session(python=["3.12", "3.13"])
def torch_free(session: nox.Session) -> None:
    """The tests that need no torch, where it is not installed."""
    session.chdir(ROOT)
    needed = [one for one in PROJECT["dependencies"] if not one.startswith("torch")]
    session.install("-c", "constraints.txt", "pytest", "hypothesis", *needed)
    session.install("--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", *FAST, *TORCH_FREE, *session.posargs)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """All fast tests with the oldest packages promised, but for torch.

    Of it the version of constraints.txt: older builds for CPUs alone are in no package index. What
    old packages warn of under today's others is no error.
    """
    session.chdir(ROOT)
    session.install("-c", "constraints.txt", "torch")
    extras = PROJECT["optional-dependencies"]
    promised = {*PROJECT["dependencies"], *extras["text"], *extras["images"]}
    oldest = [oldest_of(one) for one in promised if not one.startswith("torch")]
    others = {*extras["dev"], *extras["docs"]} - promised - {"flops-fit[docs]"}
    session.install("setuptools", *others, *oldest)
    session.install("--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", *FAST, "-W", "default", *session.posargs)


def oldest_of(requirement: str) -> str:
    """hydra-core>=1.3.8,<1.4 as hydra-core==1.3.8"""
    return re.sub(r">=([^,]+).*", r"==\1", requirement)
