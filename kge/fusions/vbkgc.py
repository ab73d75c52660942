"""VBKGC (Zhang and Zhang, CIKM 2022): structure and one joint vector of all features, in all four pairs of the model.

    joint     m_e = W [phi_1; phi_2; ...] + b      modalities by name, each at length 1, zero where the entity lacks it
    score     sum over X, Y in {structure, joint} of the model's score of (h_X, r, t_Y)

VBKGC is `--kge transe --fusion vbkgc --sampler twins`. The paper's joint vector is VisualBERT's; here it is the form on the
features at hand.
"""

from __future__ import annotations

from nsbench.contracts import Need
from nsbench.kge.fusions.pairs import PairOptions, Pairs
from nsbench.registry import FUSIONS


@FUSIONS.register("vbkgc")
class VBKGC(Pairs):
    version = 1
    provides = frozenset({Need.VIEWS, Need.PARTS})
    Options = PairOptions
