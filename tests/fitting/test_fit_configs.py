from dataclasses import fields
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from flops_fit.fitting import (
    AbsoluteError,
    Cubic,
    EnvelopeFit,
    IsoflopFit,
    SquaredError,
    SurfaceFit,
)

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "fit"

EXPECTED = {
    "envelope": EnvelopeFit(),
    "isoflop": IsoflopFit(),
    "cubic": IsoflopFit(curve=Cubic()),
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
    assert set(config) - {"_target_"} == {f.name for f in fields(built)}
