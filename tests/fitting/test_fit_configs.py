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
    FitError,
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


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: SurfaceFit(within=1.0), "within is 1.0: give a factor of N above 1"),
        (lambda: SurfaceFit(dearest=0.0), "dearest is 0.0: give a share of the runs"),
        (lambda: SurfaceFit(dearest=1.5), "dearest is 1.5: give a share of the runs"),
        (lambda: IsoflopFit(recent=1), "recent is 1: a line needs 2 budgets or more"),
        (lambda: IsoflopFit(exponent=50.0), "exponent is 50.0: give that of N_opt in C"),
        (lambda: CombinedFit(with_budgets={}), "with_budgets is empty: name one method"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_words(build, said):
    with pytest.raises(FitError) as error:
        build()
    assert str(error.value).startswith(said)
