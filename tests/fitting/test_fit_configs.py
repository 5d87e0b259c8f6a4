from dataclasses import fields
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from flops_fit.fitting import (
    AbsoluteError,
    CombinedFit,
    Cubic,
    EnvelopeFit,
    IsoflopFit,
    RepeatedFit,
    SquaredError,
    SurfaceFit,
)

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "fit"

EXPECTED = {
    "auto": CombinedFit(),
    "envelope": EnvelopeFit(),
    "isoflop": IsoflopFit(),
    "cubic": IsoflopFit(curve=Cubic()),
    "repeated": RepeatedFit(),
    "surface": SurfaceFit(),
    "tied": SurfaceFit(tied_exponents=True),
    "vpnls": SurfaceFit(objective=SquaredError()),
    "lad": SurfaceFit(objective=AbsoluteError()),
}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_configs_state_every_setting_and_the_defaults_of_the_code(name):
    config = OmegaConf.load(FOLDER / f"{name}.yaml")
    built = instantiate(config)
    assert built == EXPECTED[name]
    assert set(config) - {"_target_", "_convert_"} == {f.name for f in fields(built)}


def test_the_candidates_of_auto_stand_in_the_order_of_the_code():
    """Draws take candidates by their numbers."""
    built, ours = instantiate(OmegaConf.load(FOLDER / "auto.yaml")), CombinedFit()
    assert list(built.with_budgets) == list(ours.with_budgets)
    assert list(built.without_budgets) == list(ours.without_budgets)
