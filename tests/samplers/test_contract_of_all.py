"""Every built-in sampler keeps the contract: with each model, in each variant, under options that lead it another way."""

import pytest

from nsbench.registry import SAMPLERS
from nsbench.testing.rules import assert_contract

KGES = {"ns_kge": ["distmult"]}  # the others take all
FUSIONS = {"dhns": "adamf", "dhns_released": "adamf", "mans": "two_view"}
ALWAYS = {"dhns": ["timesteps=10"], "dhns_released": ["timesteps=10"], "kbgan": ["pretrain_epochs=10"]}
VARIANTS = {name: [f"variant={v}" for v in SAMPLERS.get(name).variants] for name in SAMPLERS.names()}
OPTIONS = {
    "igan": ["turns=step", "turns=none"],
    "mans": [f"{s} {v}".strip() for s in ("strategy=V", "strategy=T", "strategy=H") for v in ("", *VARIANTS["mans"])],
    "mmrns": ["feedback=-1", "feedback=0"],
    "nscaching": ["update=drawn lazy=1 tau=0"],
    "one_vs_all": ["loss=logistic"],
    "pseudo_typed": ["side=fair"],
    "sans": ["mode=rw", "variant=released omega=30"],
}
OTHER = [("dhns", "transe", "none", ""), ("dhns_released", "transe", "none", "")]


def cases():
    for name in SAMPLERS.names():
        if SAMPLERS.source(name) == "built-in" and not SAMPLERS.get(name).needs_run:
            kges, fusion = KGES.get(name, ["transe", "distmult", "rotate"]), FUSIONS.get(name, "none")
            yield from ((name, kge, fusion, "") for kge in kges)
            yield from ((name, kges[0], fusion, options) for options in (*VARIANTS[name], *OPTIONS.get(name, ())))
    yield from OTHER


def by_speed(name, kge, fusion, options):
    slow = (name == "mmrns" and kge != "transe") or ((name in FUSIONS or name == "mmrns") and options)
    values = (name, kge, fusion, options)
    return pytest.param(*values, id="-".join(filter(None, values)), marks=[pytest.mark.slow] * bool(slow))


@pytest.mark.filterwarnings("ignore:dhns:UserWarning")
@pytest.mark.parametrize(("name", "kge", "fusion", "options"), [by_speed(*case) for case in cases()])
def test_contract(name, kge, fusion, options):
    settings = [f"sampler.{option}" for option in (*ALWAYS.get(name, ()), *options.split())]
    assert_contract(name, kge, fusion=fusion, settings=settings, device="cpu")
