"""planted: an embedded multimodal knowledge graph whose every true fact is known.

Nothing is read from disk: the graph is generated, the same for the same size on every machine. It is a geometric random
graph with hubs, a law that none of the scored models can write down:

- An entity has a type, a position on a torus [0, 1)^2 and a popularity. A relation joins one head type to one tail type
  and moves positions by a nonlinear, area-preserving map of its own.
- Popularity is the size of an entity's disc on the other side of a relation. (h, r, t) is a candidate when
  distance(map_r(h), t)^2 <= disc_r(h) + disc_r(t); its strength is the logarithm of right over left, so it is positive.
- The relation's category then decides. A one-tail relation keeps for each head the strongest candidate, a one-head
  relation for each tail, 1-1 keeps those that are the strongest for both ends, n-n keeps all. What remains is the
  *world*: every true fact, no other. The score of a triple is its strength less that of its best rival; true facts are
  exactly those with a positive score (`Planted.scores`).
- Discs follow a Pareto law, less what an entity of its type receives from the discs of others, so that degrees have the
  density exponent DEGREE_EXPONENT.
- A share HELD_OUT of each relation's world is in no split: the facts of the lowest score, up to noise, since knowledge
  bases lack the obscure facts first. The rest is dealt to train, valid and test. False negatives of a sampler are thus
  of two kinds, the evaluation's (valid, test) and those that no filter can know (world without known).
- Features are nonlinear noisy views of type, position and popularity: one vector as an image, four tokens as a text. They
  are missing as often as in MKG-Y. `planted:null` is the same graph, each entity wearing the features of another.

One or two per cent of the valid and test facts have an entity that train lacks (real sets: 7 to 15 %).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nsbench.contracts import Dataset
from nsbench.errors import Misuse
from nsbench.registry import DATASETS

SEED = 20240611  # with the number of entities, all that decides the graph
SMALL = 800
SMALLEST, LARGEST = 500, 1_000_000

DEGREE_EXPONENT = 2.5  # of the density of an entity's number of true facts, p(k) ~ k^-2.5 in the tail
HELD_OUT = 0.20  # of the true facts, in no split
RECORDING_NOISE = 0.3  # scale of the noise on a fact's score when it is decided which are held out
VALID, TEST = 0.10, 0.10  # of the recorded facts

MISSING = {"image": 0.050, "text": 0.180}  # shares of MKG-Y
TOKENS = 4
FEATURE_NOISE = 1.0

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

TYPES = {"person": 0.32, "place": 0.18, "work": 0.18, "organisation": 0.14, "event": 0.10, "subject": 0.08}  # shares


@dataclass(frozen=True)
class Relation:
    """What a relation joins, and how densely.

    `level` is, for n-1, the share of heads that have a tail; for 1-n, the share of tails that have a head; for n-n, the
    facts per entity of the larger side; for 1-1, the candidates per entity among which the mutual best is the fact.
    """

    name: str
    head: str
    tail: str
    category: Literal["1-1", "1-n", "n-1", "n-n"]
    level: float

    @property
    def one_head(self) -> bool:
        return self.category in ("1-1", "1-n")

    @property
    def one_tail(self) -> bool:
        return self.category in ("1-1", "n-1")


RELATIONS = (
    Relation("spouse of", "person", "person", "1-1", 3.0),
    Relation("lives at", "person", "place", "1-1", 3.0),
    Relation("twinned with", "place", "place", "1-1", 3.0),
    Relation("followed by", "work", "work", "1-1", 3.0),
    Relation("adapted from", "work", "work", "1-1", 3.0),
    Relation("led by", "organisation", "person", "1-1", 3.0),
    Relation("rival of", "organisation", "organisation", "1-1", 3.0),
    Relation("opened by", "event", "person", "1-1", 3.0),
    Relation("born in", "person", "place", "n-1", 0.8),
    Relation("employed by", "person", "organisation", "n-1", 0.8),
    Relation("specialised in", "person", "subject", "n-1", 0.7),
    Relation("published by", "work", "organisation", "n-1", 0.8),
    Relation("set in", "work", "place", "n-1", 0.6),
    Relation("known for", "person", "event", "n-1", 0.5),
    Relation("home of", "place", "person", "1-n", 0.8),
    Relation("awarded to", "subject", "person", "1-n", 0.7),
    Relation("has member", "organisation", "person", "1-n", 0.7),
    Relation("premiered", "event", "work", "1-n", 0.7),
    Relation("archives", "organisation", "work", "1-n", 0.6),
    Relation("inspired", "event", "person", "1-n", 0.5),
    Relation("knows", "person", "person", "n-n", 1.7),
    Relation("appears in", "person", "work", "n-n", 1.6),
    Relation("visited", "person", "place", "n-n", 1.6),
    Relation("took part in", "person", "event", "n-n", 1.6),
    Relation("cites", "work", "work", "n-n", 2.6),
    Relation("is about", "work", "subject", "n-n", 2.4),
    Relation("borders", "place", "place", "n-n", 2.6),
    Relation("sponsors", "organisation", "event", "n-n", 2.6),
)


@dataclass(frozen=True, eq=False)
class Planted:
    """The latent truth behind a planted dataset, as NumPy arrays on the CPU. Entities are those of the dataset."""

    types: Ids  # [N] position in TYPES
    position: Array  # [N, 2] on the torus
    popularity: Array  # [N] >= 0, about 1 on average
    warp: Array  # [R, 4] parameters of each relation's map
    world: Ids  # [n, 3] every true fact, in lexicographic order
    score: Array  # [n] > 0, the score of each

    def members(self, type_name: str) -> Ids:
        """Ids of the entities of a type, ascending."""
        return np.flatnonzero(self.types == list(TYPES).index(type_name))

    def scores(self, relation: int) -> tuple[Ids, Ids, Array]:
        """Head ids [a], tail ids [b] and the score [a, b] of every typed pair; positive means true.

        Computed densely from the latents, without the neighbour search that generated the world: meant for tests and
        diagnostics of up to some 15,000 entities. Pairs of other types are false.
        """
        rule = RELATIONS[relation]
        heads, tails = self.members(rule.head), self.members(rule.tail)
        disc_h, disc_t = _discs(rule, self.popularity[heads], self.popularity[tails])
        origin, goal = _warp(self.position[heads], self.warp[relation]), self.position[tails]
        with np.errstate(divide="ignore"):  # no disc at all: minus infinity, and false
            strength = np.log((disc_h[:, None] + disc_t) / _distance2(origin[:, None], goal[None]))
        strength[heads[:, None] == tails] = -np.inf
        rival = np.zeros_like(strength)
        if rule.one_tail:
            rival = np.maximum(rival, _best_other(strength))
        if rule.one_head:
            rival = np.maximum(rival, _best_other(strength.T).T)
        return heads, tails, strength - rival


def latents(argument: str | None = None) -> Planted:
    """The truth behind `load(argument)`: for oracles, and to measure what a sampler takes for false."""
    return _generate(_parse(argument)[0])


@DATASETS.register("planted")
def load(argument: str | None = None, *, split: str | None = None, features: str = "auto") -> Dataset:
    """The planted dataset; `argument` is `small` (default), `15k`, `1m`, `20000`, ..., `null` or `null:SIZE`."""
    size, null = _parse(argument)
    if split not in (None, "released"):
        raise Misuse(f"planted has no split '{split}'; leave out --split, or use released")
    if features not in ("auto", "none"):
        raise Misuse(f"planted makes its own features and has none called '{features}'; use --features auto or none")
    graph = _generate(size)
    train, valid, test = _deal(graph, np.random.default_rng([SEED, size, 1]))
    rng = np.random.default_rng([SEED, size, 2])
    views = _features(graph, rng) if features != "none" else {}
    present = {name: rng.random(size) >= MISSING[name] for name in views}
    if null:  # whole rows change hands, masks too: the same features, and no fact depends on them
        wearer = rng.permutation(size)
        views = {name: view[wearer] for name, view in views.items()}
        present = {name: mask[wearer] for name, mask in present.items()}
    for name, view in views.items():
        view[~present[name]] = 0
    return Dataset(
        name=_name(size, null),
        train=torch.from_numpy(train),
        valid=torch.from_numpy(valid),
        test=torch.from_numpy(test),
        entities=_entity_names(graph.types),
        relations=[relation.name for relation in RELATIONS],
        features={name: torch.from_numpy(view) for name, view in views.items()},
        present={name: torch.from_numpy(mask) for name, mask in present.items()},
        world=torch.from_numpy(graph.world),
    )


def _parse(argument: str | None) -> tuple[int, bool]:
    """Number of entities, and whether the features are independent of the facts."""
    text = (argument or "small").lower()
    null = text == "null" or text.startswith("null:")
    size = text.removeprefix("null").removeprefix(":") if null else text
    number, unit = (size[:-1], {"k": 1_000, "m": 1_000_000}[size[-1]]) if size[-1:] in ("k", "m") else (size, 1)
    if size == "small" or text == "null":
        return SMALL, null
    if not (number.isascii() and number.isdigit()):
        raise Misuse(f"unknown size 'planted:{argument}'; use small, null, a number of entities such as 15k, or null:15k")
    if not SMALLEST <= int(number) * unit <= LARGEST:
        raise Misuse(f"planted has {SMALLEST} to {LARGEST} entities, not '{argument}'; choose a size in between")
    return int(number) * unit, null


def _name(size: int, null: bool) -> str:
    """The one name of a dataset, however its size was written."""
    if size == SMALL:
        return "planted:null" if null else "planted:small"
    short = f"{size // 1_000_000}m" if size % 1_000_000 == 0 else f"{size // 1_000}k" if size % 1_000 == 0 else str(size)
    return f"planted:null:{short}" if null else f"planted:{short}"


def _entity_names(types: Ids) -> list[str]:
    """`person 17`: numbered within the type."""
    number = np.zeros(len(types), dtype=np.int64)
    for kind in range(len(TYPES)):
        member = types == kind
        number[member] = np.arange(1, member.sum() + 1)
    labels = list(TYPES)
    return [f"{labels[kind]} {i}" for kind, i in zip(types.tolist(), number.tolist(), strict=True)]


def _generate(size: int) -> Planted:
    rng = np.random.default_rng([SEED, size, 0])
    bounds = np.round(np.cumsum(list(TYPES.values())) * size).astype(np.int64)
    types = rng.permutation(np.searchsorted(bounds, np.arange(size), side="right"))
    position = rng.random((size, 2))
    popularity = _popularity(types, rng)
    warp = rng.random((len(RELATIONS), 4))
    world, score = [], []
    bare = Planted(types, position, popularity, warp, np.empty((0, 3), dtype=np.int64), np.empty(0))
    for index, rule in enumerate(RELATIONS):
        h, t, s = _facts(rule, bare, warp[index])
        world.append(np.stack([h, np.full_like(h, index), t], axis=1))
        score.append(s)
    triples, scores = np.concatenate(world), np.concatenate(score)
    order = np.lexsort((triples[:, 2], triples[:, 1], triples[:, 0]))
    return Planted(types, position, popularity, warp, triples[order], scores[order])


def _popularity(types: Ids, rng: np.random.Generator) -> Array:
    """[N] factors on an entity's discs, such that its expected degree follows the Pareto law.

    An entity of a type expects `own` facts in its discs if its factor is 1, and `received` facts from the discs of the
    other end. Its wanted degree is Pareto above `least`; the factor is what is left of it after `received`, if anything,
    and `least` is chosen so that factors are 1 on average.
    """
    counts = dict(zip(TYPES, np.bincount(types, minlength=len(TYPES)).tolist(), strict=True))
    own, received = dict.fromkeys(TYPES, 0.0), dict.fromkeys(TYPES, 0.0)
    for rule in RELATIONS:
        heads, tails = counts[rule.head], counts[rule.tail]
        match rule.category:
            case "n-1":
                own[rule.tail] += rule.level * heads / tails
                received[rule.head] += rule.level
            case "1-n":
                own[rule.head] += rule.level * tails / heads
                received[rule.tail] += rule.level
            case "n-n":
                for end, number in ((rule.head, heads), (rule.tail, tails)):
                    own[end] += rule.level * max(heads, tails) / 2 / number
                    received[end] += rule.level * max(heads, tails) / 2 / number
            case "1-1":
                for end, number in ((rule.head, heads), (rule.tail, tails)):
                    received[end] += 0.6 * min(heads, tails) / number  # the share of mutual bests, near enough
    shape = DEGREE_EXPONENT - 1
    factor = np.empty(len(types))
    for kind, name in enumerate(TYPES):
        a, b = own[name], received[name]
        if a * (shape - 1) <= b:
            least = (a * (shape - 1) * b ** (shape - 1)) ** (1 / shape)
        else:
            least = (a + b) * (shape - 1) / shape
        quantile = (rng.permutation(counts[name]) + 0.5) / counts[name]  # even, so that small graphs have the law too
        factor[types == kind] = np.maximum(least * quantile ** (-1 / shape) - b, 0) / a
    return factor


def _discs(rule: Relation, head: Array, tail: Array) -> tuple[Array, Array]:
    """Squared radii of the discs of heads and tails, from their popularity."""
    heads, tails = len(head), len(tail)
    area_h, area_t = np.zeros(heads), np.zeros(tails)
    match rule.category:
        case "n-1":  # a head that expects -log(1 - p) candidates has one with probability p
            area_t = -np.log1p(-rule.level) / tails * tail
        case "1-n":
            area_h = -np.log1p(-rule.level) / heads * head
        case "n-n":
            mean = rule.level * max(heads, tails) / 2 / (heads * tails)
            area_h, area_t = mean * head, mean * tail
        case "1-1":
            area_h = np.full(heads, rule.level / max(heads, tails))
    return np.minimum(area_h, 0.4) / np.pi, np.minimum(area_t, 0.4) / np.pi  # no disc may overlap itself on the torus


def _warp(x: Array, p: Array) -> Array:
    """The relation's map of the torus onto itself, [n, 2] by p [4]: two sine shears, which preserve area.

    No shift, which would be RotatE's turn of a phase. Twice these amplitudes cost TransE, DistMult and RotatE a third of
    their MRR on planted:small; without any, all relations would be similarity of the ends.
    """
    first = x[:, 0] + (0.05 + 0.1 * p[0]) * np.sin(2 * np.pi * (x[:, 1] + p[1]))
    second = x[:, 1] + (0.05 + 0.1 * p[2]) * np.sin(2 * np.pi * (first + p[3]))
    return np.stack([first, second], axis=1) % 1.0 % 1.0  # twice: -1e-17 % 1.0 is 1.0, off the torus


def _distance2(a: Array, b: Array) -> Array:
    """Squared distance on the torus, [...] for [..., 2]."""
    gap = np.abs(a - b)
    return (np.minimum(gap, 1 - gap) ** 2).sum(-1)


def _facts(rule: Relation, graph: Planted, warp: Array) -> tuple[Ids, Ids, Array]:
    """Heads, tails and scores, [n] each, of a relation's true facts."""
    heads, tails = graph.members(rule.head), graph.members(rule.tail)
    disc_h, disc_t = _discs(rule, graph.popularity[heads], graph.popularity[tails])
    origin, goal = _warp(graph.position[heads], warp), graph.position[tails]
    # A candidate lies within sqrt(2) radii of the end with the larger disc, which is where it is looked for; within
    # one radius if the other end has none.
    reach = np.sqrt(2.0) if disc_h.any() and disc_t.any() else 1.0
    h1, t1 = _within(origin, reach * np.sqrt(disc_h), goal)
    t2, h2 = _within(goal, reach * np.sqrt(disc_t), origin)
    first, second = disc_h[h1] >= disc_t[t1], disc_h[h2] < disc_t[t2]
    h, t = np.concatenate([h1[first], h2[second]]), np.concatenate([t1[first], t2[second]])
    with np.errstate(divide="ignore"):
        strength = np.log((disc_h[h] + disc_t[t]) / _distance2(origin[h], goal[t]))
    candidate = (strength > 0) & (heads[h] != tails[t])
    h, t, strength = h[candidate], t[candidate], strength[candidate]
    rival = np.zeros_like(strength)
    if rule.one_tail:
        rival = np.maximum(rival, _best_rival(h, strength))
    if rule.one_head:
        rival = np.maximum(rival, _best_rival(t, strength))
    score = strength - rival
    true = score > 0
    return heads[h[true]], tails[t[true]], score[true]


def _within(centres: Array, radii: Array, points: Array) -> tuple[Ids, Ids]:
    """All pairs (centre, point) within the centre's radius; centres without a disc have none."""
    owners = np.flatnonzero(radii > 0)
    if not len(owners):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    found = cKDTree(points, boxsize=1.0).query_ball_point(centres[owners], radii[owners], return_sorted=False)
    lengths = np.fromiter(map(len, found), dtype=np.int64, count=len(owners))
    hits = np.fromiter((p for row in found for p in row), dtype=np.int64, count=int(lengths.sum()))
    return np.repeat(owners, lengths), hits


def _best_rival(group: Ids, strength: Array) -> Array:
    """The greatest strength among the others of the same group, at least 0; [n]."""
    order = np.lexsort((-strength, group))
    ordered, value = group[order], strength[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    start = np.flatnonzero(first)[np.cumsum(first) - 1]  # position of the group's best
    same = np.r_[ordered[1:] == ordered[:-1], False]
    runner_up = np.where(same, np.r_[value[1:], 0.0], 0.0)
    rival = np.empty_like(strength)
    rival[order] = np.where(first, runner_up, value[start])
    return rival


def _best_other(strength: Array) -> Array:
    """[a, b] the greatest strength of the row without the column itself."""
    best = strength.argmax(1)
    rows = np.arange(len(strength))
    rest = strength.copy()
    rest[rows, best] = -np.inf
    other = np.repeat(strength.max(1, keepdims=True), strength.shape[1], axis=1)
    other[rows, best] = rest.max(1)
    return other


def _deal(graph: Planted, rng: np.random.Generator) -> tuple[Ids, Ids, Ids]:
    """Train, valid and test, [n, 3] each: the recorded facts in random order."""
    key = graph.score + RECORDING_NOISE * rng.logistic(size=len(graph.score))
    relation = graph.world[:, 1]
    order = np.lexsort((key, relation))  # each relation's facts, the obscure first
    counts = np.bincount(relation, minlength=len(RELATIONS))
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    recorded = order[place >= np.repeat(np.round(HELD_OUT * counts), counts)]
    shuffled = graph.world[rng.permutation(recorded)]
    valid, test = int(VALID * len(shuffled)), int(TEST * len(shuffled))
    return shuffled[valid + test :], shuffled[:valid], shuffled[valid : valid + test]


def _features(graph: Planted, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """image [N, F] and text [N, TOKENS, F]: tanh of a random view of the latents, plus noise. Nothing is missing yet."""
    size = len(graph.types)
    width = 32 if size <= 200_000 else 16  # a million entities take 320 MB
    angle = 2 * np.pi * np.c_[graph.position, graph.position.sum(1), graph.position[:, 0] - graph.position[:, 1]]
    kind = np.eye(len(TYPES))[graph.types]
    facets = np.c_[kind, np.cos(angle), np.sin(angle), np.log1p(graph.popularity)]  # [N, 15]

    def look() -> NDArray[np.float32]:
        # Half of the facets each: no token tells all. On a grid of 1/256, so that the last bit of some machine's tanh
        # does not change the feature fingerprint.
        seen = rng.permutation(facets.shape[1]) < facets.shape[1] / 2
        signal = (facets * seen) @ rng.standard_normal((facets.shape[1], width))
        noise = FEATURE_NOISE * rng.standard_normal((size, width))
        return (np.round(256 * np.tanh((signal + noise) / 2)) / 256).astype(np.float32)

    return {"image": look(), "text": np.stack([look() for _ in range(TOKENS)], axis=1)}
