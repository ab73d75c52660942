"""Whether a sampler's generator is alive, or adds nothing to the sampled negatives beside it: a verdict on its figures.

A generator may run for the whole of an experiment and teach the model nothing: its row then shows the sampled negatives
alone, under the name of the method. Three figures of a run's diagnostics tell, where the sampler has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MOMENTS = ("start", "middle", "end")  # of a run's measurements, in their order
TRUTH_OF_UNIFORM = 0.5  # share of the entities that a uniform one outscores
LEAST_GRADIENT = 0.01  # of the generated negatives' terms, over that of the sampled ones'
NOISE_LOSS_OF_ZERO = 1.0  # of what predicts no noise at all


def dead(diagnostics: Mapping[str, Any]) -> list[str]:
    """Why the generator counts as dead, a short sentence for each reason; empty where it is alive, or there is none.

    `diagnostics` as in result.json. The last measurement decides: before the first step every generator is untrained.
    """
    last: Mapping[str, float] = next((diagnostics[moment] for moment in reversed(MOMENTS) if moment in diagnostics), {})
    reasons = []
    truth, gradient = last.get("generated_truth"), last.get("generated_gradient")
    if truth is not None and not truth > TRUTH_OF_UNIFORM:
        reasons.append(f"the true entity's own vectors score above no more than half of the entities ({truth:.2f})")
    if gradient is not None and not gradient >= LEAST_GRADIENT:
        reasons.append(
            f"the gradient of the generated negatives is less than {LEAST_GRADIENT} of the sampled ones' ({gradient:.2g})"
        )
    return reasons + _noise(diagnostics.get("sampler", {}))


def _noise(figures: Mapping[str, float]) -> list[str]:
    """Of the sampler's own figures: the quarters of the chain in which it predicts no noise."""
    found = {match[1]: x for name, x in figures.items() if (match := re.fullmatch(r"noise_loss_quarter(\d)", name))}
    lost = {quarter: x for quarter, x in found.items() if not x < NOISE_LOSS_OF_ZERO}
    if not lost:
        return []
    where = f"quarter{'s' if len(lost) > 1 else ''} {' and '.join(lost)} of the chain"
    return [f"in {where} the noise is predicted no better than by zero ({', '.join(f'{x:.2f}' for x in lost.values())})"]
