"""A fresh model on the negatives that another run drew, step by step (`--sampler replay:RUN`).

A sampler that looks at the model does two things at once: it finds negatives that teach, and it follows the model that it
trains. The replay takes the second away. Where it equals the sampler's own run, the negatives are good for any model; where
it falls back to `uniform`, following one's own model is what helps. Under the seed of a run whose sampler is not coupled the
replay is that run, rank for rank.

RUN is a finished run: a folder, a name, or a part of a name in the store. Model, data, protocol and auxiliary losses are
that run's, `--seed` chooses the fresh model's initial values. Nothing of RUN is needed but its configuration: it is made
again beside the fresh model (nsbench.training.replay), so a replay costs twice. Vectors that a sampler generates lie in the
space of its own model, and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from nsbench.contracts import Negatives, Positives, Sampler, View
from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS, option


@SAMPLERS.register("replay")
class Replay(Sampler):
    needs_run = True
    source: Sampler  # of the run that is made again; set by the trainer

    @dataclass(frozen=True)
    class Options:
        of: str = option("", "the sampler that is replayed, set by replay:RUN")

    def sample(self, positives: Positives, view: View) -> Negatives:
        raise Misuse("replay draws nothing itself; carry it out with nsbench run --sampler replay:RUN")

    def describe(self) -> dict[str, float]:
        return self.source.describe()
