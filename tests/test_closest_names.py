"""Suggestions for misspelt names."""

from lens_multimodal.closest_names import closest


def test_the_most_alike_names_are_named_and_nothing_else():
    animals = ("dog", "dogs", "zebra", "doge", "dot")
    assert closest("dog", animals).startswith("; closest: dog, ")
    assert closest("zebr", animals) == "; closest: zebra"
    assert closest("dgo", animals, most=1).count(",") == 0
    assert closest("aeroplane", animals) == ""
    assert closest("dog", ()) == ""
