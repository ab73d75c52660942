"""What a configuration is made of, in which order, and that its record says all of it."""

import dataclasses

import pytest

from nsbench.config.run import configure, from_record
from nsbench.testing.rules import toy


def test_a_setting_beats_the_variant_and_that_the_protocols_sizes(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "quick"\n[sampler.nscaching]\ncache = 7\n')

    def options(*settings):
        made = configure("nscaching", "transe", "toy", protocol=str(tmp_path / "mine.toml"), settings=settings)
        assert made.proposed == ({} if "sampler.variant=released" in settings else {"cache": 7})
        return made.sampler_options

    assert (options().cache, options().candidates) == (7, 50)
    released = options("sampler.variant=released")
    assert (released.cache, released.candidates, released.duplicates) == (30, 30, True)  # a run called released is released
    assert options("sampler.variant=released", "sampler.cache=3").cache == 3


@pytest.mark.parametrize(
    "settings", [(), ("aux.mat=0.3", "aux.mat.temperature=2"), ("protocol.margin=4", "sampler.cache=9")]
)
def test_a_configuration_comes_back_from_its_record(settings):
    made = configure("nscaching", "rotate", "toy", protocol="quick", seed=3, fusion="adamf", settings=settings)
    record = made.record(toy(features=True))
    again = from_record(record)
    assert again.record(toy(features=True)) == record
    for name in ("seed", "protocol", "changed", "sampler_options", "kge_options", "fusion_options", "aux", "aux_options"):
        assert getattr(again, name) == getattr(made, name), name


def test_who_has_a_feature_belongs_to_its_fingerprint():
    data = toy(features=True)
    present = {name: mask.clone() for name, mask in data.present.items()}
    present["image"][5] = False
    other = dataclasses.replace(data, present=present)
    assert other.feature_fingerprint != data.feature_fingerprint
    assert other.fingerprint == data.fingerprint
