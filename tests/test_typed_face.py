"""The Python face is typed: a user's script passes mypy --strict, and mistakes in it don't."""

import subprocess
import sys
from pathlib import Path

import pytest

import flops_fit

SCRIPT = Path(__file__).parent / "typed_script.py"


@pytest.mark.slow
def test_a_users_script_passes_strict_checks(tmp_path):
    pytest.importorskip("mypy")
    words = ["--strict", "--config-file", "", "--cache-dir", str(tmp_path), str(SCRIPT)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


def test_tab_offers_what_users_call():
    assert set(flops_fit.__all__) < set(dir(flops_fit))
    assert {"find_optimal", "fit_table", "load_law", "Study", "Plan", "Run"} < set(dir(flops_fit))
    assert not {"api", "import_module", "Any", "version"} & set(dir(flops_fit))
    for name in flops_fit.__all__:
        assert getattr(flops_fit, name).__doc__, name
    assert (Path(flops_fit.__file__).parent / "py.typed").exists()


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'find_optimum'"):
        _ = flops_fit.find_optimum
