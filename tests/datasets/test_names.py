from pathlib import Path

import pytest

from nsbench.datasets import names
from nsbench.datasets.reading import read_identifiers
from nsbench.errors import Misuse


def lines(file: Path) -> list[str]:
    return file.read_text("utf-8").removesuffix("\n").split("\n")


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("<http://dbpedia.org/resource/Athens,_Ohio>", "Athens, Ohio"),
        ("<http://dbpedia.org/resource/HIV/AIDS>", "HIV/AIDS"),
        ("<http://dbpedia.org/resource/You_Talkin'_to_Me_>", "You Talkin' to Me"),
        ("http://dbpedia.org/resource/Where_Are_You_Going_on_Holiday%3F", "Where Are You Going on Holiday?"),
        ("http://dbpedia.org/resource/The_Firemen_of_Viggiù", "The Firemen of Viggiù"),
        ("Gilles_Mbang_Ondo", "Gilles Mbang Ondo"),
        ("AC/DC", "DC"),  # the slip of the published names
    ],
)
def test_entity_names(identifier: str, name: str) -> None:
    assert names.entity_name(identifier) == name


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("<http://www.w3.org/2000/01/rdf-schema#seeAlso>", "see Also"),
        ("<http://dbpedia.org/ontology/isPartOfMilitaryConflict>", "is Part Of Military Conflict"),
        ("wasBornIn", "was Born In"),
        ("original_language_of_film_or_TV_show", "original language of film or TV show"),
        ("located_in/on_physical_feature", "located in/on physical feature"),
    ],
)
def test_relation_names(identifier: str, name: str) -> None:
    assert names.relation_name(identifier) == name


def test_the_public_list_is_read_by_id() -> None:
    text = "1 http://dbpedia.org/resource/Linda_Darnell 1\n0 http://dbpedia.org/resource/My_Darling_Clementine 0\n"
    labels = names.labels_by_id(text, "list")
    assert [names.entity_name(x) for x in labels] == ["My Darling Clementine", "Linda Darnell"]


@pytest.mark.parametrize("text", ["0 a 1\n", "0 a\n", "Q12 0\n", "x a x\n", "0 a 0\n2 b 2\n"])
def test_an_altered_list_is_refused(text: str) -> None:
    with pytest.raises(Misuse, match="the list was altered, use another mirror"):
        names.labels_by_id(text, "list")


@pytest.mark.data
@pytest.mark.parametrize("folder", ["DB15K", "MKG-Y"])
def test_the_real_names_come_out_exactly(real_data: Path, folder: str) -> None:
    for kind, rule in (("entity", names.entity_name), ("relation", names.relation_name)):
        identifiers = read_identifiers(real_data / folder / f"{kind}2id.txt")
        assert [rule(x) for x in identifiers] == lines(real_data / folder / f"{kind}_names.txt")


@pytest.mark.data
def test_names_of_mkg_w_survive_the_form_of_the_public_list(real_data: Path) -> None:
    """The lists in zjukg/K-ON are not at hand, but their form and length are known: the names, written in that form,
    have as many characters.
    """
    entities = lines(real_data / "MKG-W" / "entity_names.txt")
    quoted = str.maketrans({" ": "_", "?": "%3F", "%": "%25", '"': "%22"})
    text = "".join(f"{i} http://dbpedia.org/resource/{x.translate(quoted)} {i}\n" for i, x in enumerate(entities))
    assert len(text) == 863352
    assert [names.entity_name(x) for x in names.labels_by_id(text, "list")] == entities
    relations = lines(real_data / "MKG-W" / "relation_names.txt")
    text = "".join(f"{i} {name.replace(' ', '_')} {i}\n" for i, name in enumerate(relations))
    assert len(text) == 3733
    assert [names.relation_name(x) for x in names.labels_by_id(text, "list")] == relations
