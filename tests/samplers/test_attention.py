"""docs/notes/mmrns.md, section 5: properties 1, 15, 16, 17, 18, 19 as far as they are about the attention alone."""

import pytest
import torch
import torch.nn.functional as F

from nsbench.samplers.parts.attention import CrossModalAttention

ENTITIES, RELATIONS, RELATION_WIDTH, WIDTH, OUT = 5, 3, 6, 4, 3
SHAPES = {
    "one": {"text": (2, 7)},
    "two": {"image": (3, 5), "text": (2, 7)},
    "pooled": {"image": (5,), "text": (2, 7)},
    "three": {"audio": (8,), "image": (3, 5), "text": (2, 7)},
}


def attention_on(shapes, **options):
    torch.manual_seed(0)
    attention = CrossModalAttention(shapes, RELATION_WIDTH, WIDTH, OUT, **options).double()
    with torch.no_grad():  # as if trained: nothing at its neutral value
        attention.norm.weight.uniform_(0.5, 1.5)
        attention.norm.bias.uniform_(-0.5, 0.5)
    return attention


def inputs(attention, shapes, padding=False):
    """Tokens of ENTITIES entities and vectors of RELATIONS relations; `padding`: the last text token of entities 1 and 3."""
    rng = torch.Generator().manual_seed(1)
    present = torch.ones(ENTITIES, dtype=torch.bool)
    tokens = {}
    for m, shape in shapes.items():
        valid = torch.ones(ENTITIES, 2, dtype=torch.bool) if m == "text" and padding else None
        if valid is not None:
            valid[[1, 3], 1] = False
        features = torch.randn(ENTITIES, *shape, generator=rng, dtype=torch.float64)
        tokens[m] = attention.tokens(m, features, present, valid)
    return tokens, torch.randn(RELATIONS, RELATION_WIDTH, generator=rng, dtype=torch.float64)


def layer_norm(row, norm):
    centred = row - row.sum() / len(row)
    return centred / ((centred * centred).sum() / len(row) + 1e-5).sqrt() * norm.weight + norm.bias


def by_the_equations(attention, tokens, r, gated=True):
    """z of each modality for one entity and one relation, row by row."""
    z = {}
    for m in tokens:
        rows = []
        for p in [p for p in sorted(tokens) if p != m] or [m]:
            x, reader = tokens[m].x[0], tokens[p].x[0]
            keeps = torch.ones(len(x)) if tokens[m].valid is None else tokens[m].valid[0]
            reads = torch.ones(len(reader)) if tokens[p].valid is None else tokens[p].valid[0]
            if gated:
                linear = attention.gate[f"{m}|{p}"]
                gate = (1 / (1 + (-(linear.weight @ r + linear.bias)).exp())).view(len(reader), len(x))
            else:
                gate = torch.ones(len(reader), len(x))
            for i in range(len(reader)):
                raw = [sum(reader[i] * x[j]) for j in range(len(x))]
                share = [v.exp() * keep for v, keep in zip(raw, keeps)]
                free = sum(s / sum(share) * x[j] for j, s in enumerate(share))
                guided = sum(raw[j] * gate[i, j] * keeps[j] * x[j] for j in range(len(x)))
                rows.append((layer_norm(free, attention.norm) + layer_norm(guided, attention.norm)) * reads[i])
        z[m] = attention.out[m].weight @ torch.cat(rows) + attention.out[m].bias
    return z


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("gated", [True, False])
def test_pairs_and_grid_are_the_equations(case, padding, gated):
    attention = attention_on(SHAPES[case], gated=gated)
    tokens, r = inputs(attention, SHAPES[case], padding)
    grid = attention.grid(tokens, r)
    for q in range(RELATIONS):
        pairs = attention.pairs(tokens, r[q].expand(ENTITIES, -1))
        for entity in range(ENTITIES):
            one = {m: x.at(torch.tensor([entity])) for m, x in tokens.items()}
            for m, expected in by_the_equations(attention, one, r[q], gated).items():
                torch.testing.assert_close(pairs[m][entity], expected, rtol=0, atol=1e-10)
                torch.testing.assert_close(grid[m][entity, q], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", SHAPES)
def test_the_grid_has_the_gradients_of_the_equations(case):
    attention = attention_on(SHAPES[case])
    weight = torch.randn(ENTITIES, RELATIONS, OUT, dtype=torch.float64)
    found = []
    for direct in (True, False):
        attention.zero_grad()
        tokens, r = inputs(attention, SHAPES[case], padding=True)
        r.requires_grad_()
        grid = None if direct else attention.grid(tokens, r)
        loss = torch.zeros(())
        for q in range(RELATIONS):
            for entity in range(ENTITIES):
                one = {m: x.at(torch.tensor([entity])) for m, x in tokens.items()}
                z = by_the_equations(attention, one, r[q]) if direct else {m: grid[m][entity, q] for m in grid}
                loss = loss + sum((weight[entity, q] * v).sum() for v in z.values())
        loss.backward()
        found.append({"r": r.grad.clone()} | {name: p.grad.clone() for name, p in attention.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-8, atol=1e-9, msg=name)


def test_tokens_are_a_leaky_map_and_what_is_missing_is_its_bias():
    attention = attention_on({"text": (2, 7)})
    features = torch.randn(3, 2, 7, dtype=torch.float64)
    present = torch.tensor([True, False, True])
    x = attention.tokens("text", features.masked_fill(~present.view(3, 1, 1), torch.nan), present).x
    linear = attention.project["text"]
    for e in range(3):
        for t in range(2):
            value = linear.weight @ features[e, t] * present[e] + linear.bias
            torch.testing.assert_close(x[e, t], torch.where(value > 0, value, 0.1 * value))
    x.sum().backward()
    assert linear.weight.grad.isfinite().all()


def test_pooled_features_become_tokens_of_their_own():
    attention = attention_on({"image": (5,)}, pooled_tokens=3)
    features = torch.randn(2, 5, dtype=torch.float64)
    x = attention.tokens("image", features, torch.ones(2, dtype=torch.bool)).x
    flat = F.leaky_relu(attention.project["image"](features), 0.1)
    assert x.shape == (2, 3, WIDTH)
    torch.testing.assert_close(x[1, 2], flat[1, 2 * WIDTH :])


@pytest.mark.parametrize(("tokens", "acts"), [(1, False), (4, True)])
def test_one_pooled_token_leaves_the_relation_without_effect(tokens, acts):
    """Property 17: the layer norm cancels a single gate."""
    shapes = {"image": (5,), "text": (7,)}
    attention = attention_on(shapes, pooled_tokens=tokens)
    with torch.no_grad():
        for m in shapes:  # affinities well away from 0
            attention.project[m].bias.fill_(3.0)
    seen, r = inputs(attention, shapes)
    z = attention.grid(seen, 3 * r)
    for m in shapes:
        change = (z[m][:, 1:] - z[m][:, :1]).abs().max()
        assert (change > 1e-2) if acts else (change < 1e-3)


def test_without_the_relation_nothing_depends_on_it():
    """Property 19."""
    for options, moves in (({}, True), ({"gated": False}, False), ({"attend": False}, False)):
        attention = attention_on(SHAPES["two"], **options)
        tokens, r = inputs(attention, SHAPES["two"])
        for form in (attention.grid(tokens, r)["text"], attention.grid(tokens, 2 * r)["text"]):
            assert (form[:, 0] - form[:, 1]).abs().max().item() > 1e-3 if moves else torch.equal(form[:, 0], form[:, 1])


def test_without_attention_z_is_a_linear_map_of_the_tokens():
    """Property 19: and no gate exists."""
    attention = attention_on(SHAPES["two"], attend=False)
    tokens, r = inputs(attention, SHAPES["two"], padding=True)
    z = attention.pairs(tokens, r)
    assert not len(attention.gate)
    x = tokens["text"].x.clone()
    x[[1, 3], 1] = 0
    torch.testing.assert_close(z["text"], x.flatten(1) @ attention.out["text"].weight.T + attention.out["text"].bias)


def test_the_bare_branch_is_that_of_the_named_modality_alone():
    attention = attention_on(SHAPES["two"])
    tokens, r = inputs(attention, SHAPES["two"])
    rows = r[:1].expand(ENTITIES, -1)
    plain, bare = attention.pairs(tokens, rows), attention.pairs(tokens, rows, bare="image")
    assert torch.equal(plain["text"], bare["text"])
    x, reader, linear = tokens["image"].x, tokens["text"].x, attention.out["image"]
    free = (reader @ x.transpose(1, 2)).softmax(2) @ x  # [n, 2, a]
    difference = (free - torch.stack([torch.stack([layer_norm(row, attention.norm) for row in e]) for e in free])).flatten(1)
    torch.testing.assert_close(bare["image"] - plain["image"], difference @ linear.weight.T)


def test_published_sizes():
    """Property 1, and the number of parameters that docs/notes/mmrns.md 4.6 counts without eq. 7."""
    image = F.avg_pool2d(torch.randn(1, 1, 197, 768), (9, 3), (8, 2)).squeeze(1)
    assert image.shape == (1, 24, 383)
    attention = CrossModalAttention({"image": tuple(image.shape[1:]), "text": (4, 384)}, 200)
    assert sum(p.numel() for p in attention.parameters()) == 207_542 - 40_100 - 20_200
    z = attention.grid(
        {
            "image": attention.tokens("image", image, torch.ones(1, dtype=torch.bool)),
            "text": attention.tokens("text", torch.randn(1, 4, 384), torch.ones(1, dtype=torch.bool)),
        },
        torch.randn(2, 200),
    )
    assert z["image"].shape == z["text"].shape == (1, 2, 50)
