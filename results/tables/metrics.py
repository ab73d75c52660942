"""The metrics that tables know, each declared once: how it prints, which way is better, where result.json has it.

A new metric is one line here, and its computation (nsbench.metrics for those of ranks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from nsbench.results.store import Run, config_value


@dataclass(frozen=True)
class Metric:
    name: str
    header: str
    higher: bool | None  # is better; None: neither is
    scale: float
    decimals: int
    unit: str  # of the stored value, which csv files keep
    part: str = ""  # of result.json, where the value has this name: test, cost or diagnostics; empty: no figure of a run

    @property
    def better(self) -> str:
        return {True: "higher", False: "lower", None: "neither"}[self.higher]

    def of(self, run: Run) -> float | None:
        """What the run says of the metric; None where that was not measured."""
        value = config_value(run.record, f"{self.part}.{self.name}")
        return None if value is None or math.isnan(value) else float(value)

    def text(self, value: float, sign: bool = False) -> str:
        """Rounded half up in decimal: 2.675 at two decimals is 2.68, which binary rounding gets wrong. Zero has no minus."""
        plus = "+" if sign else ""
        if not math.isfinite(value):
            return f"{value:{plus}f}"  # inf, nan
        scaled = Decimal(repr(float(value))) * Decimal(repr(self.scale))
        rounded = scaled.quantize(Decimal(1).scaleb(-self.decimals), ROUND_HALF_UP)
        return f"{rounded or abs(rounded):{plus}f}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("mrr", "MRR", True, 100, 2, "fraction", "test"),
        Metric("mr", "MR", False, 1, 0, "rank", "test"),
        Metric("hits@1", "H@1", True, 100, 2, "fraction", "test"),
        Metric("hits@3", "H@3", True, 100, 2, "fraction", "test"),
        Metric("hits@10", "H@10", True, 100, 2, "fraction", "test"),
        Metric("amri", "AMRI", True, 100, 2, "fraction", "test"),
        Metric("seconds", "total s", False, 1, 1, "seconds", "cost"),
        Metric("train_seconds", "training s", False, 1, 1, "seconds", "cost"),
        Metric("sampler_seconds", "sampler s", False, 1, 1, "seconds", "cost"),
        Metric("evaluation_seconds", "evaluation s", False, 1, 1, "seconds", "cost"),
        Metric("peak_memory", "peak MiB", False, 2**-20, 0, "bytes", "cost"),
        Metric("sampler_state", "sampler state MiB", False, 2**-20, 1, "bytes", "cost"),
        Metric("end.false_negatives_train", "FN train", None, 100, 2, "fraction", "diagnostics"),
        Metric("end.false_negatives_known", "FN known", None, 100, 2, "fraction", "diagnostics"),
        Metric("end.false_negatives_world", "FN world", None, 100, 2, "fraction", "diagnostics"),
        Metric("start.hardness", "hardness, start", None, 100, 1, "fraction", "diagnostics"),
        Metric("middle.hardness", "hardness, middle", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.hardness", "hardness, end", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.hardness_now", "hardness, own model", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.margin_gap", "margin gap", None, 1, 2, "score", "diagnostics"),
        Metric("end.active", "active", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.type_valid", "type-valid", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.unseen", "unseen", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.entropy", "entropy", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.coverage", "coverage", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.distinct", "distinct", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.generated_false_negatives_known", "generated: FN known", None, 100, 2, "fraction", "diagnostics"),
        Metric("end.generated_false_negatives_world", "generated: FN world", None, 100, 2, "fraction", "diagnostics"),
        Metric("end.generated_hardness_now", "generated: hardness", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.generated_active", "generated: active", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.generated_truth", "generated: truth", None, 100, 1, "fraction", "diagnostics"),
        Metric("end.generated_gradient", "generated: gradient", None, 1, 3, "ratio", "diagnostics"),
        *(
            Metric(f"sampler.noise_loss_quarter{i}", f"noise loss, quarter {i}", None, 1, 3, "", "diagnostics")
            for i in (1, 2, 3, 4)
        ),
    )
}
READS = Metric("reads", "reads", None, 1, 0, "")  # words, of what the negatives come from
DIFFERENCE = Metric("difference", "Δ MRR", None, 100, 2, "fraction")  # from the baseline, or the full method
DIAGNOSTICS = tuple(name for name, metric in METRICS.items() if metric.part == "diagnostics")
