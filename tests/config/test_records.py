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


def test_a_record_says_the_modalities_and_what_they_were_made_from():
    data = dataclasses.replace(toy(features=True), identities={"image": "made so"})
    record = configure("uniform", "transe", "toy", fusion="adamf").record(data)
    assert (record["features"], record["modalities"]) == ("image,text", ["image", "text"])
    assert record["feature_fingerprint"] == data.feature_fingerprint
    assert from_record(record).features == "image,text"
    for seen in (
        configure("uniform", "transe", "toy", fusion="adamf", features="text, image"),
        configure("uniform", "transe", "toy", fusion="adamf", features="image,text"),
    ):
        assert seen.features == "image,text"
    bits = {name: x + 1e-6 * (x != 0) for name, x in data.features.items()}
    other = dataclasses.replace(data, features={**data.features, "image": bits["image"]})  # as on another machine
    theirs = from_record(record).record(other)
    assert theirs["feature_bytes"] != record["feature_bytes"]
    assert {**theirs, "feature_bytes": ""} == {**record, "feature_bytes": ""}  # the id too
    text = dataclasses.replace(data, features={**data.features, "text": bits["text"]})  # whose content alone is known
    assert from_record(record).record(text)["id"] != record["id"]
    made = dataclasses.replace(data, identities={"image": "made otherwise"})
    assert from_record(record).record(made)["id"] != record["id"]


@pytest.mark.parametrize(
    ("features", "modalities", "asked"),
    [
        ("none", [], "none"),
        ("official", ["textual", "visual"], "official:textual,official:visual"),
        ("official", ["visual"], "official:visual"),
        ("names", ["textual"], "names"),
        ("planted", ["image", "text"], "image,text"),
        ("captions,names128", ["captions", "names128"], "captions,names128"),
    ],
)
def test_records_of_every_version_are_read(features, modalities, asked):
    record = configure("uniform", "transe", "toy").record(toy())
    assert from_record({**record, "features": features, "modalities": modalities}).features == asked


def test_a_run_without_features_has_the_id_that_it_always_had():
    """The id is a hash over all that the record says; of features it says what it said before they had names."""
    record = configure("uniform", "transe", "toy").record(toy())
    said = {name: value for name, value in record.items() if "feature" in name or "modalit" in name}
    assert said == {"features": "none", "feature_fingerprint": "", "modalities": []}
