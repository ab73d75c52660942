"""Every built-in sampler keeps the contract: with each model, in each variant, under options that lead it another way."""

import itertools

import pytest

from nsbench.registry import SAMPLERS
from nsbench.testing.rules import assert_contract

KGES = {"ns_kge": ["distmult", "complex"]}  # the others take all
FUSIONS = {"dhns": "adamf", "dhns_released": "adamf", "mans": "two_view", "twins": "vbkgc"}
ALWAYS = {"dhns": ["timesteps=10"], "dhns_released": ["timesteps=10"], "kbgan": ["pretrain_epochs=10"]}
VARIANTS = {name: [f"variant={v}" for v in SAMPLERS.get(name).variants] for name in SAMPLERS.names()}
OPTIONS = {
    "igan": ["turns=step", "turns=none"],
    "mans": [f"{s} {v}".strip() for s in ("strategy=V", "strategy=T", "strategy=H") for v in ("", *VARIANTS["mans"])],
    "mmrns": ["feedback=-1", "feedback=0"],
    "nscaching": ["update=drawn lazy=1 tau=0"],
    "one_vs_all": ["loss=logistic"],
    "pseudo_typed": ["side=fair"],
    "twins": ["share=0.5"],
    "sans": ["mode=rw", "variant=released omega=30"],
}


def cases():
    """By default every sampler with TransE, and its variants and options with the other models in turn; slow: the rest."""
    others = itertools.cycle(["rotate", "distmult"])
    for name in SAMPLERS.names():
        if SAMPLERS.source(name) == "built-in" and not SAMPLERS.get(name).needs_run:
            kges, fusion = KGES.get(name, ["transe", "distmult", "rotate"]), FUSIONS.get(name, "none")
            choices = (*VARIANTS[name], *OPTIONS.get(name, ()))
            fused = name in FUSIONS or name == "mmrns"
            yield case(name, kges[0], fusion, "")
            turns = [kges[0] if len(kges) == 1 or fused else next(others) for _ in choices]
            yield from (case(name, kge, fusion, options, slow=fused) for kge, options in zip(turns, choices))
            yield from (case(name, kge, fusion, "", slow=bool(choices) or fused) for kge in kges[1:])
    yield case("dhns", "transe", "none", "")
    yield case("dhns_released", "transe", "none", "", slow=True)


def case(*values, slow=False):
    return pytest.param(*values, id="-".join(filter(None, values)), marks=[pytest.mark.slow] * slow)


@pytest.mark.filterwarnings("ignore:dhns:UserWarning")
@pytest.mark.parametrize(("name", "kge", "fusion", "options"), [*cases()])
def test_contract(name, kge, fusion, options):
    settings = [f"sampler.{option}" for option in (*ALWAYS.get(name, ()), *options.split())]
    assert_contract(name, kge, fusion=fusion, settings=settings, device="cpu")
