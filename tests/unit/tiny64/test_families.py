import pytest

from tiny64.families import family_of, split_of

PEOPLE = "People & Body"
FACES = "Smileys & Emotion"
THINGS = "Objects"


@pytest.mark.parametrize(
    ("group", "names"),
    [
        (PEOPLE, ["farmer", "man farmer", "woman farmer"]),
        (PEOPLE, ["merman", "mermaid", "merperson"]),
        (PEOPLE, ["man", "woman: red hair", "person frowning"]),
        (PEOPLE, ["deaf man", "deaf woman", "deaf person"]),
        ("Travel & Places", ["one o’clock", "twelve-thirty"]),
        ("Travel & Places", ["full moon", "waning crescent moon", "new moon face"]),
        ("Travel & Places", ["taxi", "oncoming taxi", "oncoming police car"]),
        (FACES, ["red heart", "two hearts", "broken heart"]),
        ("Animals & Nature", ["dog", "dog face"]),
        ("Symbols", ["keycap 1", "keycap #"]),
        ("Symbols", ["right arrow", "BACK arrow", "left arrow curving right"]),
    ],
)
def test_near_duplicates_share_a_family(group, names):
    assert len({family_of(name, group) for name in names}) == 1


@pytest.mark.parametrize(
    ("group", "one", "other"),
    [
        (PEOPLE, "woman farmer", "woman pilot"),
        (THINGS, "bell", "bell pepper"),
        (THINGS, "bow and arrow", "right arrow"),
        ("Animals & Nature", "leopard", "Leo"),
        ("Animals & Nature", "tiger face", "fox"),
        (FACES, "winking face", "ghost"),
        ("Symbols", "Scorpio", "scorpion"),
    ],
)
def test_different_things_have_different_families(group, one, other):
    assert family_of(one, group) != family_of(other, group)


def test_no_name_is_reduced_to_nothing():
    assert family_of("people", PEOPLE) == "people"


def test_splits_depend_on_the_family_name_alone():
    # Fixed values: a change here moves subjects that networks were trained on into val or test.
    assert {name: split_of(name) for name in ("fox", "tiger", "apple")} == {
        "fox": "train",
        "tiger": "val",
        "apple": "test",
    }


def test_split_shares_are_those_promised():
    splits = [split_of(f"family {index}") for index in range(4000)]
    assert splits.count("train") / 4000 == pytest.approx(0.775, abs=0.02)
    assert splits.count("val") / 4000 == pytest.approx(0.115, abs=0.02)
    assert splits.count("test") / 4000 == pytest.approx(0.110, abs=0.02)
