"""The keeper of the latest values."""

from lens_multimodal.latest import Latest


def test_each_value_is_made_once_and_the_one_unused_for_longest_is_dropped():
    made: list[str] = []
    dropped: list[str] = []
    latest: Latest[str, str] = Latest(2, forget=dropped.append)

    def value(key: str) -> str:
        return latest.get(key, lambda: made.append(key) or key.upper())

    assert [value(key) for key in "aba"] == ["A", "B", "A"]
    assert made == ["a", "b"]
    assert value("c") == "C"
    assert dropped == ["B"], "a was used after it"
    assert latest.find("b") is None
    assert latest.find("a") == "A"
    latest.put("d", "D")
    assert dropped == ["B", "C"]
    assert len(latest) == 2


def test_without_forget_values_are_only_dropped():
    latest: Latest[int, int] = Latest(1)
    assert [latest.get(key, lambda key=key: key + 1) for key in (1, 2, 1)] == [2, 3, 2]
    assert len(latest) == 1
