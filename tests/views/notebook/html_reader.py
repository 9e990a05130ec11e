"""HTML read back by the standard library's parser: what a browser would find in it."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"img", "meta", "br", "link", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    def all(self, name: str) -> list["Element"]:
        """Every element below with this tag, or, after a dot, this class."""
        own = [c for c in self.children if name[1:] in c.classes or name == c.tag]
        below = [found for c in self.children for found in c.all(name)]
        return own + below

    @property
    def whole_text(self) -> str:
        return self.text + "".join(c.whole_text for c in self.children)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        closed = self.open.pop()
        assert closed.tag == tag, f"</{tag}> closes <{closed.tag}>"

    def handle_data(self, data):
        self.open[-1].text += data


def read(html: str) -> Element:
    """The elements of some HTML; every one of them must be closed in order."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], "elements were left open"
    return reader.root


def assert_self_contained(html: str) -> None:
    """No script, nothing fetched: pictures are `data:` URIs."""
    root = read(html)
    assert not root.all("script")
    assert not root.all("link")
    assert not root.all("iframe")
    for image in root.all("img"):
        assert image.attributes["src"].startswith("data:image/")
    style = "".join(s.text for s in root.all("style"))
    assert "@import" not in style
    assert style.count("url(") == style.count("url(data:image/")
    for element in root.all("div") + root.all("span"):
        assert not [name for name in element.attributes if name.startswith("on")]
