"""notes/classic_samplers.md, section 9, Tests; and what negatives of several views are to the battery and the figures."""

import dataclasses

import pytest
import torch

from nsbench.campaign import plan as campaign
from nsbench.config.run import check_needs, configure
from nsbench.contracts import Negatives
from nsbench.contracts.scoring import Scoring
from nsbench.errors import Misuse
from nsbench.options import build_options
from nsbench.runs import inspection
from nsbench.runs.runner import RunOptions
from nsbench.samplers.bernoulli import head_probability
from nsbench.samplers.mans import MANS, some_of
from nsbench.testing.rules import Watch, toy
from nsbench.training.diagnostics import Diagnosis
from nsbench.training.trainer import Trainer

LETTERS = ("V", "T", "H", "A")


def full(data=None):
    """The toy, everyone with an image of their own."""
    data = toy(features=True) if data is None else data
    return dataclasses.replace(data, present={m: torch.ones_like(x) for m, x in data.present.items()})


def trainer_of(*settings, kge="distmult", data=None, sampler="mans"):
    sizes = ("width=6", "batch=16", "negatives=7", "steps=60", "learning_rate=0.02")
    values = [*(f"protocol.{x}" for x in sizes), *(f"sampler.{x}" if "." not in x.split("=")[0] else x for x in settings)]
    config = configure(sampler, kge, "toy", protocol="quick", fusion="two_view", settings=values)
    return Trainer(config, full() if data is None else data)


def drawn(trainer, rows=None, **view):
    """Positives, block, and which negatives keep the answer's structure, [B, K] on their own evidence."""
    positives = trainer.graph.positives(torch.arange(129) if rows is None else torch.as_tensor(rows))
    block = trainer.sampler.sample(positives, dataclasses.replace(trainer.view, **view))
    side = block.side if block.side.dim() == 2 else block.side.unsqueeze(1)
    answer = torch.where(side, positives.h.unsqueeze(1), positives.t.unsqueeze(1)).expand(block.shape)
    visual = block.view_ids["structure"] == answer
    assert torch.equal(block.view_ids["structure"][~visual], block.view_ids["image"][~visual])  # e' in both views
    return positives, block, visual


# The four strategies


@pytest.mark.parametrize("sides", ["per_row", "per_slot"])
def test_v_keeps_the_structure_of_every_answer(sides):
    positives, block, visual = drawn(trainer_of("strategy=V", f"protocol.sides={sides}"))
    assert block.side.dim() == (2 if sides == "per_slot" else 1)
    assert visual.all()
    side = block.side if sides == "per_slot" else block.side.unsqueeze(1)
    facts = set(map(tuple, toy().train.tolist()))
    for (h, r, t), ends, ids in zip(positives.hrt.tolist(), side.expand(block.shape), block.view_ids["image"]):
        assert not facts & {(e, r, t) if head else (h, r, e) for head, e in zip(ends.tolist(), ids.tolist())}


@pytest.mark.parametrize(("beta", "total"), [(0.3, 10), (0.3, 7), (0.25, 8), (0.1, 30), (0.0, 5), (1.0, 5), (0.7, 10)])
def test_t_switches_at_the_ceiling_of_beta_times_the_epochs(beta, total):
    trainer = trainer_of("strategy=T", f"visual_epochs={beta}")
    seen = [drawn(trainer, range(8), epoch=epoch, total_epochs=total)[2] for epoch in range(total)]
    assert all(x.all() or not x.any() for x in seen)
    hundredths = round(100 * beta) * total  # in whole numbers
    assert [bool(x.all()) for x in seen] == [100 * epoch < hundredths for epoch in range(total)]


@pytest.mark.parametrize(("beta", "rows"), [(0.3, 129), (0.3, 1), (0.29, 100), (0.0, 9), (1.0, 9), (0.5, 3)])
def test_h_has_exactly_the_floor_of_its_share(beta, rows):
    trainer = trainer_of("strategy=H", f"visual_share={beta}")
    for _ in range(3):
        assert drawn(trainer, range(rows))[2].sum().item() == round(100 * beta) * rows * 7 // 100


def test_h_spreads_its_share_over_all_slots():
    trainer = trainer_of("strategy=H")
    counts = sum(drawn(trainer, range(10))[2].double() for _ in range(600))  # [10, 7], 21 of 70 each time
    expected, variance = 600 * 0.3, 600 * 0.3 * 0.7
    chi_square = ((counts - expected) ** 2 / variance).sum().item() * 70 / 69
    assert chi_square < 118  # 69 degrees of freedom, p = 0.0002


@pytest.mark.parametrize("kge", ["transe", "distmult"])
@pytest.mark.parametrize("sides", ["per_row", "per_slot"])
def test_a_takes_the_negatives_that_are_more_plausible_across_the_views(kge, sides):
    trainer = trainer_of(f"protocol.sides={sides}", kge=kge)
    positives, block, visual = drawn(trainer, range(40))
    s, m = (x.double() for x in trainer.scoring().tables.values())
    relation = trainer.kge.relation.detach().double()

    def score(h, r, t):
        return (h * r * t).sum() if kge == "distmult" else -(h + r - t).abs().sum()

    side = block.side if block.side.dim() == 2 else block.side.unsqueeze(1).expand(block.shape)
    margin = torch.zeros(block.shape, dtype=torch.float64)
    for b, (h, r, t) in enumerate(positives.hrt.tolist()):
        for k in range(7):
            e = block.view_ids["image"][b, k].item()
            x, y = (e, t) if side[b, k] else (h, e)
            within = score(s[x], relation[r], s[y]) + score(m[x], relation[r], m[y])
            margin[b, k] = score(s[x], relation[r], m[y]) + score(m[x], relation[r], s[y]) - within
    clear = margin.abs() > 1e-5
    assert clear.double().mean() > 0.9
    assert torch.equal(visual[clear], margin[clear] > 0)
    assert 0.1 < visual.double().mean() < 0.9


def test_a_by_count_has_the_share_of_a_by_row_in_other_places():
    rows, counts = (drawn(trainer_of(f"adapt={adapt}"))[1:] for adapt in ("row", "count"))
    assert torch.equal(rows[0].view_ids["image"], counts[0].view_ids["image"])  # the same draws
    assert rows[1].sum() == counts[1].sum()
    assert (rows[1] != counts[1]).sum() > 100


def test_the_strategies_differ_in_nothing_but_which_negatives_are_visual():
    blocks = [drawn(trainer_of(f"strategy={x}"))[1] for x in LETTERS]
    for block in blocks[1:]:
        assert torch.equal(block.side, blocks[0].side)
        assert torch.equal(block.view_ids["image"], blocks[0].view_ids["image"])


# What a visual negative teaches


def gradients(strategy, loss, kge, pairs=None):
    """Gradient of a loss(s_pos [B, 1], s_neg [B, K]) on the structural table, scores over some pairs of views; kept ends."""
    trainer = trainer_of(f"strategy={strategy}", "visual_epochs=0", kge=kge)
    positives, block, _ = drawn(trainer, range(60))
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    query = positives.anchor(block.side), positives.r, block.side
    answer = positives.answer(block.side).unsqueeze(1)
    good = scoring.view_pairs(*query, dict.fromkeys(scoring.tables, answer))
    bad = scoring.view_pairs(*query, block.view_ids)
    pairs = pairs or list(good)
    loss(sum(good[p] for p in pairs), sum(bad[p] for p in pairs)).sum().backward()
    return trainer.kge.entity.grad, set(positives.anchor(block.side).tolist())


def hinge(s_pos, s_neg):
    return (50 + s_neg - s_pos).relu()  # active everywhere


def pointwise(s_pos, s_neg):
    return -torch.nn.functional.logsigmoid(s_pos).expand_as(s_neg) - torch.nn.functional.logsigmoid(-s_neg)


@pytest.mark.parametrize("kge", ["transe", "distmult", "rotate"])
def test_in_a_margin_loss_the_structural_term_of_a_visual_negative_cancels(kge):
    alone = [("structure", "structure")]
    assert gradients("V", hinge, kge, alone)[0].abs().max() < 1e-4
    assert gradients("T", hinge, kge, alone)[0].abs().max() > 0.1  # second stage: normal negatives
    assert gradients("V", pointwise, kge, alone)[0].abs().max() > 0.01  # in a log-sigmoid it does not
    grad, kept = gradients("V", hinge, kge)  # all pairs: the structure learns through those with the kept end's
    learnt = {e for e in range(40) if grad[e].abs().max() > 1e-4}
    assert learnt
    assert learnt <= kept


# Entities without features, or with the same


def rare():
    """20 and 7 have no image, 3 and 4 have the same one."""
    data = toy(features=True)
    data.features["image"][3] = data.features["image"][4]
    return data


def test_a_visual_negative_takes_two_different_features():
    trainer = trainer_of("strategy=V", "protocol.negatives=60", data=rare())
    _, block, visual = drawn(trainer)
    ids = block.view_ids["image"]
    side = block.side.unsqueeze(1)
    triples = toy().train
    answer = torch.where(side, triples[:, :1], triples[:, 2:]).expand_as(ids)
    pairs = zip(answer.flatten().tolist(), ids.flatten().tolist())
    wanted = [a not in (7, 20) and e not in (7, 20) and {a, e} != {3, 4} for a, e in pairs]
    assert visual.flatten().tolist() == wanted
    assert not all(wanted)
    assert ((ids == 3) & (answer == 4)).any() or ((ids == 4) & (answer == 3)).any()
    assert drawn(trainer_of("strategy=V", "distinct=false", data=rare()))[2].all()


def test_shares_are_met_as_far_as_they_can_be():
    rng = torch.Generator().manual_seed(0)
    able = torch.rand(20, 10, generator=rng) < 0.4
    for count in (0, 1, 30, 200, torch.tensor(30)):
        taken = some_of(able, count, rng)
        assert not (taken & ~able).any()
        assert taken.sum() == min(int(count), able.sum())


# Variants and needs


def test_variants():
    assert set(MANS.variants) == {"paper", "released"}
    options = {name: build_options(MANS.Options, values, "sampler") for name, values in MANS.variants.items()}
    assert (options["paper"].visual_epochs, options["released"].visual_epochs) == (0.3, 0.5)
    for variant, expected in (("recommended", False), ("paper", True), ("released", True)):
        trainer = trainer_of(f"variant={variant}", "strategy=V", data=rare())
        assert drawn(trainer)[2].all().item() is expected  # image-less entities get visual negatives too
        p = head_probability(trainer.graph) if expected else torch.full((5,), 0.5)
        row = toy().train[:, 1].tolist().index(2)  # many-to-one: Bernoulli replaces the tail
        heads = drawn(trainer, [row] * 20_000)[1].side.double().mean().item()
        assert heads == pytest.approx(p[2].item(), abs=0.015)
    second = [
        drawn(trainer_of(f"variant={v}", "strategy=T"), range(4), epoch=4, total_epochs=10)[2].all().item()
        for v in ("paper", "released")
    ]
    assert second == [False, True]  # the released T is still in its first stage
    taken = [drawn(trainer_of(f"variant={v}"))[2] for v in ("paper", "released")]
    assert taken[0].sum() == taken[1].sum()
    assert not torch.equal(*taken)


def test_structure_alone_is_refused():
    with pytest.raises(Misuse, match="needs two views of an entity"):
        configure("mans", "transe", "toy")
    with pytest.raises(Misuse, match="needs two views of an entity"):
        configure("mans", "transe", "toy", fusion="adamf")
    config = configure("mans", "transe", "toy", fusion="two_view")
    check_needs(config, toy(features=True))
    with pytest.raises(Misuse, match="needs features"):
        check_needs(config, toy())


def test_the_share_of_visual_negatives_is_told():
    trainer = trainer_of("strategy=H", "visual_share=0.25")
    assert trainer.sampler.describe() == {"visual_share": 0.0}
    seen = torch.cat([drawn(trainer, range(10))[2] for _ in range(4)])
    assert trainer.sampler.describe()["visual_share"] == pytest.approx(seen.double().mean().item())


# Negatives of several views, elsewhere


def test_a_negative_is_judged_by_what_replaces_the_answer():
    trainer = trainer_of()
    positives = trainer.graph.positives(torch.tensor([0, 1]))
    side = torch.tensor([False, True])
    a, b = positives.t[0].item(), positives.h[1].item()
    one, other = torch.tensor([[a, 30, 30, a], [b, b, 31, 32]]), torch.tensor([[33, 30, 34, a], [35, b, b, 32]])
    for ends in (side, side.unsqueeze(1).expand(2, 4)):
        (x, first), (y, second) = Negatives(ends, view_ids={"structure": one, "image": other}).replacements(positives)
        assert torch.equal(x, one)
        assert torch.equal(y, other)
        assert first.tolist() == [[False, True, True, True], [False, True, True, True]]  # the positive itself: once
        assert second.tolist() == [[True, False, True, False], [True, False, False, False]]
        ((ids, every),) = Negatives(ends, ids=one).replacements(positives)
        assert torch.equal(ids, one)
        assert every.all()


class Careless(MANS):
    """Visual negatives without the filter."""

    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.view_ids["image"] = torch.randint(40, block.shape, generator=view.rng)
        return block


class Idle(MANS):
    """The positive itself."""

    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.view_ids["image"] = block.view_ids["structure"]
        return block


@pytest.mark.parametrize(("sampler", "broken"), [(Careless, {"positives"}), (Idle, {"positives"}), (MANS, set())])
def test_the_battery_still_finds_known_positives(sampler, broken):
    trainer = trainer_of("strategy=V")
    trainer.sampler.__class__ = sampler
    assert set(Watch(trainer).run(20).faults) == broken


def test_figures_of_visual_negatives_are_those_of_the_entities_drawn():
    """V draws what `uniform` draws under the same seed; the answers that it keeps are no draws."""
    data = full()
    found = {}
    for sampler, settings in (("uniform", ()), ("mans", ("strategy=V",)), ("mans", ("strategy=H",))):
        measured = Diagnosis(trainer_of(*settings, sampler=sampler, data=data), data).measure()
        found[(sampler, *settings)] = measured["figures"]
    uniform, visual, hybrid = found.values()
    for name in ("false_negatives_known", "type_valid", "unseen", "coverage", "distinct", "entropy"):
        assert uniform[name] == pytest.approx(visual[name], abs=1e-12)
    assert uniform["false_negatives_known"] > uniform["false_negatives_train"] == hybrid["false_negatives_train"] == 0
    assert visual["margin_gap"] != pytest.approx(uniform["margin_gap"])


def test_a_whole_run_and_its_inspection(tmp_path):
    config = configure("mans", "transe", "planted:small", protocol="quick", fusion="two_view")
    result = campaign.carry_out(config, tmp_path, RunOptions(save_model=True))
    assert result.test["mrr"] > 0.2
    figures = result.record["diagnostics"]
    assert 0 < figures["sampler"]["visual_share"] < 1
    assert figures["end"]["false_negatives_train"] == 0
    data = campaign.dataset_of(config)
    h, r, _ = data.train[5].tolist()
    shown = inspection.inspect(result.folder, head=data.entities[h], relation=f"#{r}", tail=None)
    answers = {data.entities[t] for a, b, t in data.train.tolist() if (a, b) == (h, r)}
    assert shown.draws == config.protocol.batch * config.protocol.negatives
    assert not answers & {line.name for line in shown.drawn}
