"""Tokens shown with nothing hidden."""

import pytest

from lens_multimodal.views.plots.labels import escaped, token_list, visible


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" dog", "·dog"),
        ("\n\t", "↵⇥"),
        ("", "∅"),
        ("\u202edog", "<U+202E>dog"),
        ("a\u200bb", "a<U+200B>b"),
        ("\x00", "<U+0000>"),
        ("\ud800", "<U+D800>"),
        ("hündchen 犬", "hündchen·犬"),
    ],
)
def test_hidden_characters_become_visible(token, shown):
    assert visible(token) == shown


def test_markup_is_escaped():
    assert escaped("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert token_list([" <i>", "\n"]) == "·&lt;i&gt;  ↵"
