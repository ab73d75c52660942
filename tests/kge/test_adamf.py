"""AdaMF against loops over entities and slots in numpy float64, its masks, its gradients, and whole runs with it.

Properties 30 and 31 and the gradient table of docs/notes/dhns.md section 5, as far as they are the fusion's.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from nsbench.campaign.plan import carry_out
from nsbench.config.run import configure
from nsbench.contracts import Generated, Negatives, missing_needs
from nsbench.contracts.scoring import Scoring
from nsbench.kge.fusions.adamf import AdaMF, pooled
from nsbench.registry import MODELS, SAMPLERS
from nsbench.runs.runner import RunOptions
from nsbench.testing.rules import assert_contract, toy
from nsbench.training.evaluation import Ranking
from nsbench.training.losses import block_loss
from tests.kge.fusions import made, same, steps, trainer_of, with_features

trainer_for = functools.partial(trainer_of, fusion="adamf")
fusion_of = functools.partial(made, AdaMF)

MODEL_NAMES = ("transe", "distmult", "rotate")


def only(*names):
    """The toy with some of its modalities."""
    data = toy(features=True)
    return with_features({m: data.features[m] for m in names}, {m: data.present[m] for m in names})


# 6.1 by loops


def looped(fusion, entity, features, present):
    """The slots [N][S] (None where missing) and the fused table [N, D], in numpy float64, entity by entity."""
    weights = {
        name: (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for name, layer in zip(sorted(features), fusion.project)
    }
    q, structure = fusion.q.detach().double().numpy(), entity.detach().double().numpy()
    every, fused = [], []
    for e in range(len(structure)):
        slots = [structure[e]]
        for name in sorted(features):
            x = features[name][e].double().numpy()
            if not present[name][e]:
                slots.append(None)
                continue
            if x.ndim == 2:  # tokens
                tokens = [token for token in x if np.any(token != 0)]
                x = sum(tokens) / len(tokens)
            w, b = weights[name]
            slots.append(np.array([sum(w[d, f] * x[f] for f in range(len(x))) + b[d] for d in range(len(b))]))
        power = [0.0 if s is None else np.exp(np.dot(q, np.tanh(s))) for s in slots]
        fused.append(sum(p / sum(power) * s for p, s in zip(power, slots) if s is not None))
        every.append(slots)
    return every, np.stack(fused)


@pytest.mark.parametrize("names", [("image", "text"), ("image",), ("text",)])
def test_tables_and_slots_are_the_formula(names):
    data = only(*names)
    if "text" in names:  # token lists of different lengths
        data.features["text"][3, 1:] = 0
        data.features["text"][4, 0] = 0
    data = with_features({m: x.double() for m, x in data.features.items()}, data.present)
    fusion = fusion_of(data).double()
    entity = torch.randn(40, 5, dtype=torch.float64)
    every, fused = looped(fusion, entity, data.features, data.present)
    torch.testing.assert_close(fusion.views(entity)["fused"], torch.from_numpy(fused), atol=1e-12, rtol=1e-9)

    ids = torch.tensor([[3, 7, 3], [20, 0, 39]])
    slots, mask = fusion.slots(entity, ids), fusion.slot_mask(ids)
    assert slots.shape == (2, 3, 1 + len(names), 5)
    for (i, j), e in np.ndenumerate(ids.numpy()):
        assert mask[i, j].tolist() == [s is not None for s in every[e]]
        for m, wanted in enumerate(every[e]):
            if wanted is not None:
                np.testing.assert_allclose(slots[i, j, m].detach().numpy(), wanted, atol=1e-12)
    torch.testing.assert_close(fusion.fuse(slots, mask), torch.from_numpy(fused)[ids], atol=1e-12, rtol=1e-9)


def test_single_precision_agrees_at_the_scales_of_use():
    """tanh is computed by way of a sigmoid: neither the saturated nor the tiny arguments may suffer."""
    data = only("image", "text")
    fusion = fusion_of(data, width=64)
    for scale in (1e-3, 0.1, 30.0):
        entity = torch.randn(40, 64) * scale
        _, fused = looped(fusion, entity, data.features, data.present)
        torch.testing.assert_close(fusion.views(entity)["fused"].double(), torch.from_numpy(fused), atol=1e-5, rtol=1e-5)


def test_tokens_count_where_they_are_not_all_zeros():
    x = torch.zeros(4, 3, 2)
    x[0] = torch.tensor([[1.0, 2.0], [0.0, 4.0], [5.0, 0.0]])  # zeros inside of a token are values
    x[1, 1] = torch.tensor([3.0, 5.0])  # one token, which is not the first
    x[3] = 7.0  # said to be absent
    present = torch.tensor([True, True, True, False])
    assert pooled(x, present).tolist() == [[2.0, 2.0], [3.0, 5.0], [0.0, 0.0], [0.0, 0.0]]


def test_weights_do_not_depend_on_what_order_the_dataset_names_its_modalities():
    data = only("image", "text")
    turned = with_features(dict(reversed(data.features.items())), dict(reversed(data.present.items())))
    assert list(turned.features) != list(data.features)
    entity = torch.randn(40, 5)
    one, other = fusion_of(data), fusion_of(turned)
    assert torch.equal(one.views(entity)["fused"], other.views(entity)["fused"])
    assert same(one.state_dict(), other.state_dict())


def test_the_fused_vector_does_not_depend_on_the_order_of_the_slots():
    fusion = fusion_of(only("image", "text")).double()
    slots, mask = torch.randn(9, 3, 5, dtype=torch.float64), torch.rand(9, 3) < 0.7
    mask[:, 0] = True
    order = [2, 0, 1]
    turned = fusion.fuse(slots[:, order], mask[:, order])
    torch.testing.assert_close(turned, fusion.fuse(slots, mask))


# Masks and modalities


@pytest.mark.parametrize("features", ["freeze", "train"])
def test_what_missing_slots_hold_has_no_influence(features):
    """Property 31: NaN there leaves values, gradients and training as they are, bit for bit."""
    data = toy(features=True)
    clean = {m: x.clone() for m, x in data.features.items()}
    spoilt = {m: x.clone() for m, x in data.features.items()}
    for m in clean:
        clean[m][~data.present[m]] = 0
        spoilt[m][~data.present[m]] = torch.nan
    found = []
    for table in (clean, spoilt):
        trainer = trainer_for(f"fusion.features={features}", data=with_features(table, data.present))
        steps(trainer, 10)
        found.append(trainer.model_state() | {"loss": trainer.loss_sum, **trainer.scoring().tables})
    assert same(*found)
    assert all(x.isfinite().all() for x in found[1].values())


def test_nan_in_slots_outside_of_the_mask_of_fuse():
    fusion = fusion_of(only("image", "text"))
    slots, mask = torch.randn(4, 7, 3, 5), torch.rand(4, 7, 3) < 0.5
    mask[..., 0] = True
    results = []
    for fill in (0.0, torch.nan):
        x = slots.masked_fill(~mask.unsqueeze(-1), fill).requires_grad_()
        out = fusion.fuse(x, mask)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, fusion.q))))
    assert out.shape == (4, 7, 5)
    for clean, spoilt in zip(*results):
        assert torch.equal(clean, spoilt)
    assert not results[1][1][~mask].any()


@pytest.mark.parametrize("kge", MODEL_NAMES)
def test_all_features_missing_is_no_modality_at_all(kge):
    """Property 31, and M = 0 is `none`: the same model and losses after training, bit for bit."""
    data = toy(features=True)
    absent = with_features(data.features, {m: torch.zeros_like(x) for m, x in data.present.items()})
    found = []
    for fusion, dataset in (("none", toy()), ("adamf", toy()), ("adamf", absent)):
        trainer = trainer_for(kge=kge, fusion=fusion, data=dataset)
        steps(trainer, 12)
        state = {name: x for name, x in trainer.model_state().items() if name.startswith("kge.")}
        (table,) = trainer.scoring().tables.values()
        found.append(state | {"loss": trainer.loss_sum, "table": table})
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_without_modalities_the_table_is_the_structural_one_itself():
    fusion = fusion_of(toy())
    entity = torch.randn(40, 5)
    assert fusion.views(entity)["fused"] is entity
    ids = torch.tensor([[1, 1, 4]])
    assert torch.equal(fusion.slots(entity, ids), entity[ids].unsqueeze(2))
    assert fusion.slot_mask(ids).tolist() == [[[True]] * 3]
    assert torch.equal(fusion.fuse(fusion.slots(entity, ids), fusion.slot_mask(ids)), entity[ids])


# Gradients


def finite_differences_agree(function, inputs):
    return torch.autograd.gradcheck(lambda *_: function(), inputs, fast_mode=False)


def test_gradients_are_those_of_finite_differences():
    fusion = fusion_of(only("image", "text"), width=3, features="train").double()
    entity = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    parameters = (entity, *fusion.parameters())
    assert len(parameters) == 1 + 2 * 3 + 1  # structure; features, weights and bias of each modality; q
    assert finite_differences_agree(lambda: fusion.views(entity)["fused"][[0, 3, 7, 20, 39]], parameters)
    ids = torch.tensor([[0, 3], [7, 3]])
    assert finite_differences_agree(lambda: fusion.slots(entity, ids), parameters)
    slots = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0], [1, 1, 0]]) == 1
    assert finite_differences_agree(lambda: fusion.fuse(slots, mask), (slots, fusion.q))


def gradients(trainer, block, positives):
    """The loss of one block; which rows and parameters it reaches: name -> sorted rows, or whether any."""
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    block_loss(*scoring.block(positives, block), block, 0.0, None).backward()
    named = {**dict(trainer.kge.named_parameters()), **dict(trainer.fusion.named_parameters())}
    reached = {}
    for name, p in named.items():
        hit = torch.zeros(len(p)) if p.grad is None else p.grad.flatten(1).abs().sum(1) if p.dim() > 1 else p.grad.abs()
        rowwise = name in ("entity", "relation") or name.startswith("phi_")
        reached[name] = sorted(hit.nonzero().flatten().tolist()) if rowwise else bool(hit.any())
        p.grad = None
    return reached


LEARNT = ("project.0.weight", "project.0.bias", "project.1.weight", "project.1.bias")


class TestGradientTable:
    """Rows of the table in section 5 that speak of adamf. Entity 7 has no features, 0 has an image alone."""

    @pytest.fixture(params=MODEL_NAMES)
    def trainer(self, request):
        return trainer_for("fusion.features=train", kge=request.param)

    @pytest.fixture
    def positives(self, trainer):
        return trainer.graph.positives(torch.tensor([0, 30, 60, 90]))

    def generated(self, trainer, positives, **how):
        slots = 0.3 * torch.randn(4, 2, 3, trainer.setting.entity_width)
        mask = torch.ones(4, 3, dtype=torch.bool)
        side = torch.zeros(4, dtype=torch.bool)  # the tail is replaced
        return Negatives(side, generated=Generated(slots, mask, joint="fuse"), **{"positive": "none", **how})

    def having(self, trainer, name, ids):
        return sorted({e for e in ids if trainer.setting.present[name][e]})

    def test_sampled_negatives_reach_everything(self, trainer, positives):
        ids = torch.tensor([[1, 2], [3, 7], [0, 11], [20, 5]])
        reached = gradients(trainer, Negatives(torch.zeros(4, dtype=torch.bool), ids=ids), positives)
        entities = {*positives.h.tolist(), *positives.t.tolist(), *ids.flatten().tolist()}
        assert reached["entity"] == sorted(entities)
        assert reached["relation"] == sorted(set(positives.r.tolist()))
        for name in ("image", "text"):
            assert reached[f"phi_{name}"] == self.having(trainer, name, entities)
        assert all(reached[name] for name in (*LEARNT, "q"))

    def test_generated_tail_reaches_the_head_alone(self, trainer, positives):
        reached = gradients(trainer, self.generated(trainer, positives), positives)
        heads = sorted(set(positives.h.tolist()))
        assert reached["entity"] == heads
        assert reached["relation"] == sorted(set(positives.r.tolist()))
        for name in ("image", "text"):
            assert reached[f"phi_{name}"] == self.having(trainer, name, heads)
        assert all(reached[name] for name in (*LEARNT, "q"))

    def test_both_ends_generated_reach_relation_and_attention(self, trainer, positives):
        """So attention learns through the generated joint as well."""
        block = self.generated(trainer, positives)
        block.generated.anchors = 0.3 * torch.randn_like(block.generated.vectors)
        reached = gradients(trainer, block, positives)
        assert reached["relation"] == sorted(set(positives.r.tolist()))
        assert reached["q"]
        assert reached["entity"] == reached["phi_image"] == reached["phi_text"] == []
        assert not any(reached[name] for name in LEARNT)

    def test_positive_term_reaches_both_ends(self, trainer, positives):
        block = self.generated(trainer, positives, positive="once", reduce="weighted", weight=torch.zeros(4, 2))
        reached = gradients(trainer, block, positives)
        ends = {*positives.h.tolist(), *positives.t.tolist()}
        assert reached["entity"] == sorted(ends)
        for name in ("image", "text"):
            assert reached[f"phi_{name}"] == self.having(trainer, name, ends)
        assert all(reached[name] for name in (*LEARNT, "q"))


def test_a_sampler_sees_slots_and_vectors_without_gradient():
    trainer = trainer_for()
    view = trainer._view(Scoring(trainer.kge, trainer.fusion, trainer.graph), live=False)
    ids = torch.tensor([0, 7, 7, 39])
    assert not view.slots(ids).requires_grad
    assert not view.vectors(ids).requires_grad
    torch.testing.assert_close(trainer.fusion.fuse(view.slots(ids), view.slot_mask(ids)), view.vectors(ids))
    assert view.slot_mask(ids).tolist() == [[True, True, False], [True, False, False], [True, False, False], [True] * 3]


# Frozen and trained features, state


@pytest.mark.parametrize("features", ["freeze", "train"])
def test_features_are_constants_or_parameters(features):
    data = toy(features=True)
    before = {m: x.clone() for m, x in data.features.items()}
    trainer = trainer_for(f"fusion.features={features}", data=data)
    start = {m: getattr(trainer.fusion, f"phi_{m}").detach().clone() for m in before}
    steps(trainer, 10)
    state = trainer.model_state()
    assert sorted(name for name in state if "phi" in name) == (
        ["fusion.phi_image", "fusion.phi_text"] if features == "train" else []
    )
    for m in before:
        assert torch.equal(data.features[m], before[m])  # never the dataset's own
        moved = (getattr(trainer.fusion, f"phi_{m}").detach() != start[m]).any(1)
        assert moved.any() == (features == "train")
        assert not moved[~data.present[m]].any()
    assert not any("mask" in name for name in state)


@pytest.mark.parametrize("features", ["freeze", "train"])
def test_model_state_goes_to_another_trainer(features):
    trained, fresh = (trainer_for(f"fusion.features={features}", seed=seed) for seed in (0, 1))
    steps(trained, 5)
    assert not torch.equal(fresh.scoring().tables["fused"], trained.scoring().tables["fused"])
    fresh.load_model_state(trained.model_state())
    assert torch.equal(fresh.scoring().tables["fused"], trained.scoring().tables["fused"])


def test_the_table_is_fused_once_per_step_and_per_evaluation():
    trainer, calls = trainer_for(), []
    views = trainer.fusion.views
    trainer.fusion.views = lambda entity: calls.append(1) or views(entity)
    steps(trainer, 3)
    assert len(calls) == 3
    data = toy()
    Ranking(data.test, data.known, 40, 5).ranks(trainer.scoring())
    assert len(calls) == 4


@pytest.mark.parametrize("kge", MODEL_NAMES)
def test_evaluation_ranks_the_fused_vectors(kge):
    data = toy(features=True)
    trainer = trainer_for(kge=kge, data=data)
    steps(trainer, 20)
    _, fused = looped(trainer.fusion, trainer.kge.entity, data.features, data.present)
    plain = trainer_for(kge=kge, fusion="none")
    table = torch.from_numpy(fused).float()
    relation = trainer.kge.relation.detach()
    scoring = trainer.scoring()
    torch.testing.assert_close(scoring.tables["fused"], table, atol=1e-5, rtol=1e-5)
    for head in (False, True):
        anchor, r = torch.arange(40), torch.arange(40) % 5
        side = torch.full((40,), head)
        q = plain.kge.query(table, relation[r], side)
        wanted = plain.kge.similarity.pairwise(q.unsqueeze(1), table)  # [40, 40]
        torch.testing.assert_close(scoring.all(anchor, r, side), wanted, atol=1e-4, rtol=1e-4)
        every = anchor.expand(40, 40).contiguous()
        torch.testing.assert_close(scoring.ids(anchor, r, side, every), wanted, atol=1e-4, rtol=1e-4)


# With everything else


def pairs():
    for sampler in [name for name in SAMPLERS.names() if not SAMPLERS.get(name).needs_run]:
        for kge in MODEL_NAMES:
            provided = MODELS.get(kge).provides | AdaMF.provides
            unmet = missing_needs(SAMPLERS.get(sampler).requires, provided)
            if not {"views", "gram"} & set(unmet):
                yield sampler, kge


PAIRS = list(pairs())


@pytest.mark.parametrize(("sampler", "kge"), PAIRS)
def test_every_sampler_trains_the_fusion_of_every_model(sampler, kge):
    trainer = trainer_for(sampler=sampler, kge=kge)
    before = trainer.model_state()
    trainer.pretrain()
    steps(trainer, 2 * len(trainer.graph) // 16 + 2)  # both phases, where they alternate by epochs
    after = trainer.model_state()
    assert trainer.loss_sum.isfinite()
    assert not [name for name in before if torch.equal(before[name], after[name])]


@pytest.mark.parametrize(
    ("sampler", "kge", "settings"), [("uniform", "rotate", ("fusion.features=train",)), ("one_vs_all", "distmult", ())]
)
def test_the_battery(sampler, kge, settings):
    """Resuming, determinism, host synchronisation and the rest of nsbench.testing.rules."""
    assert_contract(sampler, kge, fusion="adamf", settings=settings, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "kge"), PAIRS)
def test_the_battery_for_every_pair(sampler, kge):
    assert_contract(sampler, kge, fusion="adamf", device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kge", MODEL_NAMES)
def test_the_battery_on_a_gpu(kge):
    assert_contract("uniform", kge, fusion="adamf", settings=("aux.mat=0.1",), device="cuda")
    on_cpu, on_gpu = (trainer_for(kge=kge, device=device) for device in ("cpu", "cuda"))
    tables = [trainer.scoring().tables["fused"].cpu() for trainer in (on_cpu, on_gpu)]
    torch.testing.assert_close(*tables, atol=1e-5, rtol=1e-4)


def test_features_change_the_run_and_its_identity(tmp_path):
    """And without any modality it is the structural model."""
    sizes = ["protocol.steps=20", "protocol.validate_every=20", "protocol.width=8", "protocol.batch=64"]
    runs = []
    for fusion, features in (("adamf", "auto"), ("adamf", "none"), ("none", "auto")):
        how = {"protocol": "quick", "fusion": fusion, "features": features, "settings": sizes}
        runs.append(carry_out(configure("uniform", "transe", "planted:small", **how), tmp_path, RunOptions(device="cpu")))
    featured, bare, structural = runs
    assert featured.record["config"]["modalities"] == ["image", "text"]
    assert len({run.folder for run in runs}) == 3
    assert bare.test == structural.test != featured.test
