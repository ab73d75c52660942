"""Rank counts, the differentiable gather, and how the native library comes to be."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbench.errors import Misuse
from nsbench.kernels import eager, native
from nsbench.kernels import operators as kernels
from nsbench.kge.similarity import L1, L2, Dot, Moduli


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The native library, compiled for these tests into a cache of their own."""
    cache = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-c", "from nsbench.kernels import operators as kernels; kernels.use('native')"]
    subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": str(cache)}, check=True, timeout=200)
    (library,) = (cache / "nsbench").iterdir()
    return library


@pytest.fixture
def fresh(monkeypatch, built):
    """A process that has not looked for a compiler yet; its cache holds what `built` compiled."""
    caches = (native._compiled, native._warn)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(native, "_chosen", None)
    monkeypatch.delenv("NSBENCH_KERNELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(built.parent.parent))
    yield monkeypatch
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def quick_compiler(tmp_path, built):
    """A compiler that takes a moment and writes its output in two parts: what `built` compiled."""
    script = tmp_path / "g++"
    script.write_text(f"""#!/bin/sh
for output; do :; done
head -c 1000 {built} > "$output"
sleep 0.3
tail -c +1001 {built} >> "$output"
""")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("choice", ["native", "eager"])
@given(q=st.integers(1, 4), n=st.integers(1, 40), t=st.integers(0, 9), levels=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_rank_counts_against_loops(choice, q, n, t, levels, seed):
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (q, n), generator=rng).float()  # few levels: many ties
    row, answer = torch.randint(q, (t,), generator=rng), torch.randint(n, (t,), generator=rng)
    greater, equal = [], []
    for r, a in zip(row.tolist(), answer.tolist()):
        own = scores[r, a].item()
        greater.append(sum(x > own for x in scores[r].tolist()))
        equal.append(sum(x == own for x in scores[r].tolist()))
    before, native._chosen = native._chosen, choice
    try:
        found = kernels.rank_counts(scores, row, answer)
    finally:
        native._chosen = before
    assert [x.dtype for x in found] == [torch.int64, torch.int64, torch.bool]
    assert [x.tolist() for x in found] == [greater, equal, True]


@pytest.mark.parametrize("choice", ["native", "eager"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_told(choice, value, monkeypatch):
    monkeypatch.setattr(native, "_chosen", choice)
    scores = torch.randn(3, 50)
    scores[1, 48] = value
    answer = torch.tensor([0, 1])
    assert kernels.rank_counts(scores, torch.tensor([0, 2]), answer)[2]  # row 1 is not used
    assert not kernels.rank_counts(scores, torch.tensor([0, 1]), answer)[2]


@pytest.mark.parametrize("choice", ["native", "eager"])
@pytest.mark.parametrize(("row", "answer"), [(3, 0), (0, 50)])
def test_rank_counts_outside_the_scores_is_an_error(choice, row, answer, monkeypatch):
    monkeypatch.setattr(native, "_chosen", choice)
    with pytest.raises(IndexError):
        kernels.rank_counts(torch.randn(3, 50), torch.tensor([row]), torch.tensor([answer]))


@pytest.mark.parametrize("choice", ["native", "eager"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (2, 3, 4), (0,)])
def test_rows_and_their_gradient(choice, shape, monkeypatch):
    monkeypatch.setattr(native, "_chosen", choice)
    table = torch.randn(6, 5, requires_grad=True)
    ids = torch.randint(6, shape)
    taken = kernels.rows(table, ids)
    assert torch.equal(taken, table[ids])
    weight = torch.randn(taken.shape)
    (found,) = torch.autograd.grad(taken, table, weight)
    (wanted,) = torch.autograd.grad(table[ids], table, weight)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("similarity", [Dot(), L1(1), L2(1), Moduli(1)], ids=lambda s: s.kind)
def test_the_eager_path_in_many_pieces_is_the_eager_path_in_one(similarity, monkeypatch):
    monkeypatch.setattr(native, "_chosen", "eager")
    q, table = torch.randn(7, 6).requires_grad_(), torch.randn(11, 6).requires_grad_()
    ids, scale = torch.randint(11, (7, 5)), torch.rand(7, 6)
    row, answer = torch.tensor([6, 0, 6, 3]), torch.tensor([1, 2, 3, 4])

    def everything():
        score, pairs = similarity.gathered(q, table, ids), similarity.all_pairs(q, table, scale)
        both = torch.autograd.grad(score.square().sum() + pairs.square().sum(), [q, table])
        return [score, pairs, *both, *kernels.rank_counts(pairs.detach(), row, answer)]

    whole = everything()
    monkeypatch.setattr(eager, "_piece", lambda x, per_row: 2)
    for one, many in zip(whole, everything(), strict=True):
        torch.testing.assert_close(one, many)


def test_what_would_read_beyond_the_hidden_layer_is_refused():
    parts = [torch.zeros(shape) for shape in ((3, 8), (3, 8), (8,), (8,), (3, 2))]
    sums = [torch.zeros(shape) for shape in ((3, 1), (3, 1), (1,), (1,))]
    assert kernels.hidden_layer(*parts, sums, 1e-5).shape == (3, 1)
    for place in range(5):
        with pytest.raises(ValueError, match="shapes"):
            kernels.hidden_layer(*(x[:1] if i == place else x for i, x in enumerate(parts)), sums, 1e-5)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.hidden_layer(parts[0], torch.zeros(8, 3).T, *parts[2:], sums, 1e-5)


def test_without_a_compiler_one_sentence_and_the_same_scores(fresh):
    q, table, ids = torch.randn(4, 8), torch.randn(9, 8), torch.randint(9, (4, 3))
    compiled = [Moduli(2).gathered(q, table, ids), Moduli(2).all_pairs(q, table)]
    assert kernels.name() == "native"
    native._compiled.cache_clear()
    fresh.setenv("PATH", "")
    fresh.delenv("CXX", raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plain = [Moduli(2).gathered(q, table, ids), Moduli(2).all_pairs(q, table)]
        assert kernels.name() == "eager"
    sentences = [str(w.message) for w in caught]
    assert len(sentences) == 1
    assert "no C++ compiler" in sentences[0]
    assert "\n" not in sentences[0]
    torch.testing.assert_close(plain, compiled)
    with pytest.raises(Misuse, match="install g\\+\\+"):
        kernels.use("native")


def test_a_compiler_that_fails_says_why(fresh, tmp_path):
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    broken.chmod(0o755)
    fresh.setenv("CXX", str(broken))
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="no such option"):
        assert kernels.name() == "eager"
    assert not list((tmp_path / "nsbench").iterdir())


def test_the_choice_of_kernels(fresh):
    fresh.setenv("NSBENCH_KERNELS", "eager")
    assert kernels.name() == "eager"
    kernels.use("native")  # what a run asks for outweighs the environment
    assert kernels.name() == "native"
    kernels.use("eager")
    assert kernels.name() == "eager"
    with pytest.raises(Misuse, match="'fast'"):
        kernels.use("fast")
    fresh.setattr(native, "_chosen", None)
    fresh.setenv("NSBENCH_KERNELS", "quick")
    with pytest.raises(Misuse, match="'quick'"):
        kernels.name()


def test_two_processes_may_compile_at_once(tmp_path, quick_compiler):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "CXX": str(quick_compiler), "NSBENCH_KERNELS": "native"}
    command = [sys.executable, "-c", "from nsbench.kernels import operators as kernels; print(kernels.name())"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=200)[0].strip() for process in both] == ["native", "native"]
    assert [path.suffix for path in (tmp_path / "nsbench").iterdir()] == [".so"]  # one library, nothing half written


def test_what_the_library_depends_on(fresh, tmp_path, quick_compiler):
    fresh.setenv("CXX", str(quick_compiler))
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    changes = [
        lambda: None,
        lambda: fresh.setattr(native, "_cpu", lambda: "another processor"),
        lambda: fresh.setattr(native, "FLAGS", (*native.FLAGS, "-g")),
        lambda: quick_compiler.write_text(quick_compiler.read_text() + "# another compiler\n"),
    ]
    for count, change in enumerate(changes, start=1):
        change()
        for _ in range(2):  # the second time it is found
            native._compiled.cache_clear()
            kernels.use("native")
            assert len(list((tmp_path / "nsbench").iterdir())) == count


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["-mno-avx512f", "-march=x86-64"])
def test_processors_with_narrower_vectors(fresh, flag):
    if os.uname().machine != "x86_64":
        pytest.skip("flags of x86-64 processors")
    rng = torch.Generator().manual_seed(1)
    q, table = torch.randn(9, 46, generator=rng).requires_grad_(), torch.randn(83, 46, generator=rng).requires_grad_()
    ids, scale = torch.randint(83, (9, 7), generator=rng), torch.rand(9, 46, generator=rng)

    def everything():
        results = []
        for similarity in (Dot(), L1(1), L2(1), Moduli(1)):
            score = similarity.gathered(q, table, ids)
            results += [score, *torch.autograd.grad(score.square().sum(), [q, table])]
            results += [similarity.all_pairs(q.detach(), table.detach(), s) for s in (None, scale)]
        return results

    kernels.use("native")
    native._compiled.cache_clear()
    fresh.setattr(native, "FLAGS", (*native.FLAGS, flag))
    kernels.use("native")
    narrow = everything()
    kernels.use("eager")
    torch.testing.assert_close(narrow, everything(), rtol=1e-5, atol=2e-5)
