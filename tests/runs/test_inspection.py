"""`nsbench inspect`: a run's model and sampler come back as they were saved, and names, ranks and facts are right."""

import json

import pytest
import torch

from nsbench.campaign import plan as campaign
from nsbench.errors import Misuse
from nsbench.runs import inspection
from nsbench.runs.runner import RunOptions
from nsbench.testing.rules import registered
from tests.testing import fakes

SHORT = ["protocol.steps=20", "protocol.validate_every=10", "protocol.width=8", "protocol.batch=64", "protocol.negatives=4"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A store with saved models; sampler-kge -> folder."""
    store = tmp_path_factory.mktemp("store")
    folders = {}
    for sampler, kge in (("nscaching", "transe"), ("uniform", "rotate"), ("kbgan", "distmult"), ("one_vs_all", "distmult")):
        (config,) = campaign.plan([sampler], [kge], ["planted:small"], [0], protocol="quick", settings=SHORT)
        folders[f"{sampler}-{kge}"] = campaign.carry_out(config, store, RunOptions(save_model=True)).folder
    return folders


@pytest.mark.parametrize("cell", ["nscaching-transe", "uniform-rotate", "kbgan-distmult"])
def test_the_tested_model_comes_back(saved, cell):
    """Its scores put the test triples where ranks.npz has them."""
    from nsbench.results.store import Run
    from nsbench.training.evaluation import Ranking

    trainer, data = inspection._restored(saved[cell], None)
    found, _ = Ranking(data.test, data.known, data.num_entities, data.num_relations).ranks(trainer.scoring())
    stored = torch.from_numpy(Run(saved[cell], {}, {}, {}).ranks().ranks)
    assert (found != stored).float().mean() < 0.02  # radians are stored rounded: near-ties may swap


def test_draws_are_the_row_of_the_cache(saved):
    """NSCaching draws from the query's 20 cached entities and nothing else."""
    trainer, data = inspection._restored(saved["nscaching-transe"], None)
    h, r, _ = data.train[0].tolist()
    key = trainer.graph.positives(torch.tensor([0])).key_tail
    cached = {data.entities[e] for e in trainer.sampler.cache[key][0].tolist()}
    found = inspection.inspect(saved["nscaching-transe"], head=data.entities[h], relation=data.relations[r], tail=None)
    assert {line.name for line in found.drawn} <= cached
    assert len(found.drawn) > 15
    assert sum(line.share for line in found.drawn) == pytest.approx(1)
    assert found.draws == 64 * 4


def test_scores_ranks_and_facts(saved):
    folder = saved["uniform-rotate"]
    trainer, data = inspection._restored(folder, None)
    train = data.train.tolist()
    r, t = next(rest for _, *rest in data.test.tolist() if any(x[1:] == rest for x in train))
    found = inspection.inspect(folder, head=None, relation=f"#{r}", tail=f"#{t}")
    every = trainer.scoring().all(torch.tensor([t]), torch.tensor([r]), torch.tensor([True]))[0].tolist()
    facts = {h: "train" for h, *rest in train if rest == [r, t]}
    world = {h for h, *rest in data.world.tolist() if rest == [r, t]}
    assert not {line.name for line in found.drawn} & {data.entities[h] for h in facts}  # uniform is filtered
    for line in [*found.drawn, *found.hardest]:
        entity = data.entities.index(line.name)
        assert line.score == pytest.approx(every[entity])
        ahead = [sum(x > every[entity] + near for x in every) for near in (1e-5, -1e-5)]  # near-ties may fall either way
        assert ahead[0] <= line.rank - 1 <= ahead[1]
        assert bool(line.fact) == (entity in world)
    best = sorted((e for e in range(data.num_entities) if e not in facts), key=lambda e: -every[e])[:10]
    assert [line.name for line in found.hardest] == [data.entities[e] for e in best]
    shown = inspection.text(found, 5, True)
    likeliest = {line.name for line in found.drawn[:10]}
    assert shown.count("* ") == sum(line.name in likeliest for line in found.hardest)
    assert shown.splitlines()[0].startswith(f"(?, {data.relations[r]}, {data.entities[t]}): 256 draws")


def test_generated_vectors_go_by_the_nearest_entity(tmp_path):
    from nsbench.registry import FUSIONS, SAMPLERS

    with registered(SAMPLERS, "generated", fakes.Generated), registered(FUSIONS, "slots", fakes.Slots):
        (config,) = campaign.plan(
            ["generated"], ["transe"], ["planted:small"], [0], protocol="quick", fusion="slots", settings=SHORT
        )
        folder = campaign.carry_out(config, tmp_path, RunOptions(save_model=True)).folder
        _, data = inspection._restored(folder, None)
        h, r, _ = data.train[0].tolist()
        found = inspection.inspect(folder, head=data.entities[h], relation=data.relations[r], tail=None)
    assert found.generated
    assert 0 < len(found.drawn) <= found.draws
    assert "nearest" in inspection.text(found, 3, False)


def test_refusals(saved, tmp_path):
    folder = saved["nscaching-transe"]
    names = {"head": "person 184", "relation": "spouse of", "tail": None}
    for change, words in (
        ({"tail": "person 1"}, "give --head or --tail, one of them"),
        ({"head": "persom 184"}, "did you mean 'person 184'?"),
        ({"relation": "spouses of"}, "did you mean 'spouse of'?"),
        ({"head": "work 1"}, "relations that have one: "),
        ({"head": "#3000"}, "there is no entity #3000; they are numbered from #0 to #799"),
    ):
        with pytest.raises(Misuse, match=words.replace("?", r"\?")):
            inspection.inspect(folder, **{**names, **change})
    with pytest.raises(Misuse, match="is an objective and draws no negatives"):
        inspection.inspect(saved["one_vs_all-distmult"], **names)
    with pytest.raises(Misuse, match=r"no finished run in .* is called like 'nscachin g'"):
        inspection.find_run(folder.parent, "nscachin g")
    with pytest.raises(Misuse, match=r"2 runs in .* are called like 'distmult'; name one"):
        inspection.find_run(folder.parent, "distmult")
    assert inspection.find_run(folder.parent, folder.name[-8:]) == folder == inspection.find_run(tmp_path, str(folder))
    bare = tmp_path / folder.name
    bare.mkdir()
    (bare / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(Misuse, match="has no saved model; run it again into another store with --save-model"):
        inspection.inspect(bare, **names)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("fingerprint", "f00", "on other data than planted"),
        ("feature_fingerprint", "f00", "with other features than"),
        ("versions", {"sampler": 0}, "with other versions of its parts"),
        ("sources", {"sampler": "f00"}, "with other code"),
    ],
)
def test_a_run_made_with_something_else_is_refused(saved, tmp_path, part, value, words):
    folder = saved["nscaching-transe"]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(record | {part: value}))
    with pytest.raises(Misuse, match=words):
        inspection.inspect(tmp_path, head="person 184", relation="spouse of", tail=None)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[]", b'{"sampler": "nscaching"}', b"3", b"x" * 100])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "sampler.safetensors"])
def test_a_damaged_file_is_named(saved, tmp_path, name, content):
    for file in saved["nscaching-transe"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Misuse, match=f"{name} is damaged or missing; run it again into another store with --save-model"):
        inspection.inspect(tmp_path, head="person 184", relation="spouse of", tail=None)


def test_names_may_be_numbers_cases_and_ends_of_paths():
    names = ["http://x.org/onto#plays", "Plays Late", "b/Twin", "c/twin"]
    assert inspection._index("plays", names, "relation") == 0
    assert inspection._index("plays late", names, "relation") == 1
    assert inspection._index("#3", names, "relation") == 3
    with pytest.raises(Misuse, match="2 of kind relation are called 'TWIN'; name one by its number: #2, #3"):
        inspection._index("TWIN", names, "relation")


def test_the_command(saved, command):
    folder = saved["nscaching-transe"]
    query = ["--run", "nscaching", "--head", "person 184", "--relation", "spouse of", "--top", "3", "--overlap"]
    said = command("inspect", "--runs", str(folder.parent), *query)
    assert said.code == 0, said.err
    lines = [line for line in said.out.splitlines() if line]
    assert lines[0].startswith("(person 184, spouse of, ?): 256 draws, ")
    assert sum(" % " in line for line in lines) == 3 + 10
    wrong = command("inspect", "--runs", str(folder.parent), "--run", "nothing", "--relation", "x")
    assert wrong.code == 2
    assert json.loads((folder / "config.json").read_text())["sampler"] == "nscaching"


def test_a_run_with_one_modality_comes_back(tmp_path):
    settings = ["protocol.steps=4", "protocol.validate_every=4", "protocol.width=8", "protocol.batch=64"]
    (config,) = campaign.plan(
        ["uniform"],
        ["transe"],
        ["planted:small"],
        [0],
        protocol="quick",
        settings=settings,
        fusion="adamf",
        features="text",
    )
    made = campaign.carry_out(config, tmp_path, RunOptions(save_model=True))
    assert made.record["config"]["modalities"] == ["text"]
    assert inspection.inspect(made.folder, head="person 184", relation="spouse of", tail=None).draws > 0
