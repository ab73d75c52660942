"""Configuration: strict, resolved per cell, and the identity of a run."""

import dataclasses

import pytest
import torch

from nsbench.campaign import sweep
from nsbench.campaign.estimates import group_of
from nsbench.config.protocol import Cell, Protocol, protocol_names, read_protocol, resolve_protocol
from nsbench.config.run import check_needs, configure, from_record, run_id
from nsbench.contracts import Need, Sampler
from nsbench.errors import Misuse
from nsbench.registry import AUXILIARIES, SAMPLERS, option
from nsbench.results.store import read
from nsbench.testing.rules import registered, toy


@dataclasses.dataclass(frozen=True)
class Options:
    size: int = option(5, "how many", minimum=1)
    mode: str = option("a", "which", choices=("a", "b"))


class Optioned(Sampler):
    Options = Options
    variants = {"paper": {"size": 9}}


@pytest.fixture(autouse=True)
def _optioned():
    with registered(SAMPLERS, "optioned", Optioned):
        yield


def config(sampler="optioned", kge="transe", *settings, **how):
    how = {"dataset": "toy", "protocol": "quick", **how}
    return configure(sampler, kge, settings=settings, **how)


def identity(sampler="optioned", kge="transe", *settings, data=None, **how):
    return config(sampler, kge, *settings, **how).record(data or toy())["id"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["sampler.sise=3"], "unknown option sampler.sise; did you mean 'size'?"),
        (["kge.nrom=2"], "unknown option kge.nrom; did you mean 'norm'?"),
        (["fusion.x=1"], "unknown option fusion.x; it has no options"),
        (["protocol.stepps=3"], "unknown option protocol.stepps; did you mean 'steps'?"),
        (["sampler.size=0"], "sampler.size must be at least 1, not 0"),
        (["sampler.mode=c"], "sampler.mode must be one of a, b, not 'c'"),
        (["protocol.sides=both"], "protocol.sides must be one of per_row, per_slot, alternate, not 'both'"),
        (["protocol.name=mine"], "protocol.name and protocol.version cannot be set; name another protocol with --protocol"),
        (["sampler.variant=papre"], "optioned has no variant 'papre'; it has recommended, paper"),
        (["aux.nothing=-1"], "aux.nothing must be a finite number of at least 0, not -1"),
        (["aux.nothing=much"], "aux.nothing must be a number, not 'much'"),
        (["aux.nothing.x=1"], "aux.nothing has options but no weight; add --set aux.nothing=1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_words(settings, words):
    with pytest.raises(Misuse) as error:
        config("optioned", "transe", *settings)
    assert str(error.value) == words


@pytest.mark.parametrize("text", ["size=3", "sampler.size", "nonsense.size=3", "sampler size=3", ""])
def test_a_setting_has_group_name_and_value(text):
    with pytest.raises(Misuse, match=r"--set takes GROUP\.NAME=VALUE"):
        config("optioned", "transe", text)


def test_unknown_names_and_a_negative_seed():
    with pytest.raises(Misuse, match="unknown sampler 'unifrom'; did you mean 'uniform'"):
        config("unifrom")
    with pytest.raises(Misuse, match="unknown model 'trans'; did you mean 'transe'"):
        config("uniform", "trans")
    with pytest.raises(Misuse, match="unknown protocol 'quik'; did you mean 'quick'"):
        config(protocol="quik")
    with pytest.raises(Misuse, match="seed must be at least 0"):
        config(seed=-1)
    with pytest.raises(Misuse, match=r"seed must be below 2\^63, not 9223372036854775808"):
        config(seed=2**63)
    assert config(seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(Misuse, match="unknown auxiliary loss"):
        config("optioned", "transe", "aux.nothing=1")


def test_a_variant_sets_options_and_a_setting_wins():
    assert config().sampler_options == Options()
    assert config("optioned", "transe", "sampler.variant=paper").sampler_options == Options(size=9)
    both = config("optioned", "transe", "sampler.variant=paper", "sampler.size=2", "sampler.mode=b")
    assert both.sampler_options == Options(2, "b")
    assert both.variant == "paper"


def test_every_shipped_protocol_resolves_for_every_cell():
    assert {"nsbench", "cpu", "quick", "mmrns-2022"} <= set(protocol_names())
    for name in protocol_names():
        for kge in ("transe", "distmult", "rotate"):
            for dataset in ("mkg_y", "mkg_w", "db15k", "planted:small"):
                found = resolve_protocol(name, Cell(kge, dataset), {})
                assert found.name == name
                for field in dataclasses.fields(Protocol):
                    assert not isinstance(getattr(found, field.name), dict)


def write(folder, name, text):
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def test_a_protocol_extends_another_and_the_most_specific_value_wins(tmp_path):
    margins = '[margin]\ndefault = 1.0\ntranse = 2.0\ndistmult = 2.5\nmkg_y = 3.0\n"transe/mkg_y" = 4.0\n'
    base = write(tmp_path, "base", f"steps = 10\nbatch = 3\n{margins}")
    mine = write(tmp_path, "mine", f'extends = "{base}"\nsteps = 20\n')
    assert read_protocol(mine)["batch"] == 3
    assert "extends" not in read_protocol(mine)

    def margin(kge, dataset):
        return resolve_protocol(mine, Cell(kge, dataset), {}).margin

    assert [margin(kge, "mkg_y") for kge in ("transe", "distmult", "rotate")] == [4.0, 3.0, 3.0]
    assert [margin(kge, "other") for kge in ("transe", "distmult", "rotate")] == [2.0, 2.5, 1.0]
    found = resolve_protocol(mine, Cell("transe", "mkg_y"), {"margin": "9"})
    assert (found.name, found.steps, found.batch, found.margin) == ("mine", 20, 3, 9.0)


def test_protocol_files_that_cannot_be_used(tmp_path):
    with pytest.raises(Misuse, match="no protocol file"):
        config(protocol=str(tmp_path / "none.toml"))
    with pytest.raises(Misuse, match="is not TOML"):
        config(protocol=write(tmp_path, "broken", "steps ="))
    with pytest.raises(Misuse, match=r"unknown option protocol\.stepz"):
        config(protocol=write(tmp_path, "odd", "stepz = 3"))


class Picky(Sampler):
    pass


@pytest.mark.parametrize(
    ("need", "settings", "words"),
    [
        (Need.VIEWS, [], "needs two views of an entity"),
        (Need.GRAM, [], "closed form, which 'transe' is not"),
        (Need.SIDE, ["protocol.sides=alternate"], "which protocol 'quick' fixes"),
    ],
)
def test_an_impossible_pair_is_refused_while_the_configuration_is_made(need, settings, words):
    class Needs(Picky):
        requires = frozenset({need})

    with registered(SAMPLERS, "needs", Needs), pytest.raises(Misuse, match=words):
        config("needs", "transe", *settings)


def test_missing_features_are_refused_once_the_data_is_there():
    class Needs(Picky):
        requires = frozenset({Need.FEATURES})

    with registered(SAMPLERS, "needs", Needs):
        made = config("needs")
        assert made.wants_features
        check_needs(made, toy(features=True))
        with pytest.raises(Misuse, match="needs features and 'toy' has none"):
            check_needs(made, toy())
    assert not config().wants_features


def test_the_identity_does_not_depend_on_spelling_out_defaults():
    spelled = ["sampler.size=5", "sampler.variant=recommended", "kge.norm=1", "protocol.steps=200", "protocol.margin=3"]
    assert identity("optioned", "transe", *spelled) == identity()
    assert identity(fusion="none", features="none", split="released") == identity()
    assert config("optioned", "transe", *spelled).changed == {}


CHANGES = {
    "sampler": lambda: identity("uniform"),
    "model": lambda: identity("optioned", "distmult"),
    "seed": lambda: identity(seed=1),
    "sampler option": lambda: identity("optioned", "transe", "sampler.size=6"),
    "model option": lambda: identity("optioned", "transe", "kge.norm=2"),
    "protocol value": lambda: identity("optioned", "transe", "protocol.steps=201"),
    "protocol": lambda: identity(protocol="cpu"),
    "variant": lambda: identity("optioned", "transe", "sampler.variant=paper"),
    "training data": lambda: identity(data=dataclasses.replace(toy(), train=toy().train[1:])),
    "test data": lambda: identity(data=dataclasses.replace(toy(), test=toy().test[1:])),
    "filter": lambda: identity(data=dataclasses.replace(toy(), extra_known=torch.tensor([[0, 0, 9]]))),
    "features": lambda: identity(data=toy(features=True)),
}


def test_the_identity_changes_with_everything_that_can_change_the_result():
    found = {name: change() for name, change in CHANGES.items()}
    assert len({identity(), *found.values()}) == len(found) + 1, found


def test_the_identity_changes_with_a_version(monkeypatch):
    before = identity()
    monkeypatch.setattr(Optioned, "version", 2)
    assert identity() != before


def test_the_identity_of_a_file_plugin_follows_its_source_not_its_place(tmp_path):
    text = "from nsbench.contracts import Sampler\nclass Mine(Sampler):\n    pass\n"
    made = {}
    for folder, source in (("a", text), ("b", text), ("c", text + "# changed\n")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "mine.py"
        path.write_text(source)
        made[folder] = identity(f"{path}:Mine")
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_an_auxiliary_loss_and_its_weight_belong_to_the_identity():
    from nsbench.contracts import Auxiliary

    class Extra(Auxiliary):
        pass

    with registered(AUXILIARIES, "extra", Extra):
        with_extra = [identity("optioned", "transe", f"aux.extra={weight}") for weight in (0.5, 1)]
    assert len({identity(), *with_extra}) == 3


def test_the_record_says_what_was_changed_and_chosen():
    made = config("optioned", "transe", "sampler.size=6", "protocol.steps=7", seed=4).record(toy())
    assert made["changed"] == {"steps": 7}
    assert made["options"]["sampler"] == {"size": 6}
    assert made["protocol"]["steps"] == 7
    assert (made["seed"], made["dataset"], made["features"]) == (4, "toy", "none")


class Reading(Sampler):
    """Reads whatever there is, and is called by what it was asked with."""

    @classmethod
    def reads(cls, options, features, slots):
        return ["structure", *slots], f"of {'+'.join(features)}" if slots != features else ""


def test_what_the_negatives_come_from_is_recorded_beside_the_identity():
    with registered(SAMPLERS, "reading", Reading), registered(SAMPLERS, "silent", Sampler):
        plain = config("reading").record(toy(features=True))
        assert (plain["reads"], plain["called"]) == (["structure"], "of image+text")
        fused = config("reading", fusion="adamf").record(toy(features=True))
        assert fused["reads"] == ["structure", "image", "text"]
        assert "called" not in fused
        silent = config("silent", fusion="adamf").record(toy(features=True))
        for record in (plain, fused):
            rest = {name: value for name, value in record.items() if name not in ("id", "reads", "called")}
            assert run_id(rest) == run_id(record) == record["id"]
            assert group_of(rest) == group_of(record)
            assert from_record(record).record(toy(features=True)) == record
    for record in (silent, config("one_vs_all", "distmult").record(toy())):
        assert not {"reads", "called"} & set(record)


@pytest.mark.parametrize("text", ["", "[sampler.optioned]\nsize = 7\n"])
def test_what_the_protocol_proposes_is_recorded_beside_the_identity(tmp_path, text):
    path = write(tmp_path, "mine", f'extends = "quick"\n{text}')
    made = config(protocol=path)
    record = made.record(toy())
    assert record.get("proposed") == ({"size": 7} if text else None)
    assert made.sampler_options.size == record["options"]["sampler"].get("size", 5)
    assert run_id({name: value for name, value in record.items() if name not in ("id", "proposed")}) == record["id"]
    assert from_record(record).record(toy()) == record


def test_the_identities_of_the_shipped_runs_are_what_they_were(checkout):
    stores = sorted((checkout / "results" / "runs").glob("*.nsb"))
    if not stores:
        pytest.skip("the shipped runs are not here")
    shipped = [run for packed in stores for run in read(packed).runs]
    assert len(shipped) == 172
    for run in shipped:
        assert run.name.endswith(f"-{run.config['id']}")
        assert run_id(run.config) == run.config["id"]


def test_the_name_is_readable():
    assert config(seed=3).name == "optioned-transe-toy-s3"
    assert config("uniform", "rotate", dataset="planted:small").name == "uniform-rotate-planted_small-s0"


def test_a_protocol_changes_single_cells_of_the_one_that_it_extends(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('version = 1\nextends = "nsbench"\n[margin]\nmkg_y = 12.0\n')
    wanted = {"mkg_y": 12.0, "mkg_w": 3.0, "db15k": 6.0}
    assert {name: resolve_protocol(str(path), Cell("transe", name), {}).margin for name in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[margin]\ntranse = 1.0\n", "has no margin for rotate on mkg_y; add a default"),
        ("steps = 2.5\n", "protocol.steps must be a whole number, not '2.5'"),
        ("steps = true\n", "protocol.steps must be a whole number, not 'True'"),
        ('extends = "PATH"\n', "extends itself"),
        ("[margin]\ntrasne = 12.0\ndefault = 1.0\n", r"\[margin\] is for 'trasne', .*; did you mean 'transe'\?"),
        ('width."transe/mkgy" = 9\nwidth.default = 1\n', r"\[width\] is for 'transe/mkgy', .* mean 'transe/mkg_y'\?"),
        ('steps."trasne/mkg_y" = 9\nsteps.default = 1\n', r"'trasne/mkg_y', .*; did you mean 'transe/mkg_y'\?"),
        ('[batch]\n"transe/default" = 9\n', r"\[batch\] is for 'transe/default', which is not there"),
        ("[sampler.unifrm]\nx = 3\n", r"\[sampler.unifrm\] is of no sampler; did you mean 'uniform'\?"),
        ("[sampler]\nuniform = 3\n", r"options of a sampler are a table \[sampler.uniform\], not 3"),
        ("sampler = 3\n", r"options of a sampler are a table \[sampler.NAME\], not 3"),
        ("tuning = 3\n", "tuning is a table that nsbench tune writes, not 3; leave it out"),
        ("extends = 3\n", 'extends names another protocol, as extends = "nsbench", not 3'),
        ("", 'is empty; begin it with extends = "nsbench"'),
        ("[[grid]]\nsampler = 'uniform'\n", r"is a sweep and no protocol; run it with nsbench sweep .*mine\.toml"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("PATH", str(path)))
    with pytest.raises(Misuse, match=words):
        resolve_protocol(str(path), Cell("rotate", "mkg_y"), {})


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(Misuse, match=r"mine.toml is not UTF-8 text \(byte 0\); convert it to UTF-8$"):
        config(protocol=str(tmp_path / "mine.toml"))


def test_a_protocol_file_that_was_edited_is_read_again(tmp_path):
    for steps in (3, 4):
        assert config(protocol=write(tmp_path, "mine", f"steps = {steps}")).protocol.steps == steps


@pytest.mark.parametrize("sampler", ["mmrns", "dhns"])
def test_generated_vectors_need_one_view_of_an_entity(sampler):
    with pytest.raises(Misuse, match="needs one vector per entity, and 'two_view' has several views"):
        configure(sampler, "transe", "planted:small", protocol="quick", fusion="two_view")
    assert configure(sampler, "transe", "planted:small", protocol="quick", fusion="adamf").fusion == "adamf"


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    for name, text in (("mine.toml", 'extends = "quick"\nsteps = 7\n'), ("grid.toml", "seeds = 3\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_protocol(str(tmp_path / "mine.toml"))["steps"] == 7
    assert sweep.content(str(tmp_path / "grid.toml")) == {"seeds": 3}


def test_a_protocol_and_what_it_extends_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.toml").write_text('extends = "quick"\nsteps = 7\n')
    (tmp_path / "mine.toml").write_text('extends = "~/base.toml"\n')
    assert read_protocol("~/mine.toml")["steps"] == 7
