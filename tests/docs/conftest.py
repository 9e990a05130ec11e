"""A folder as a reader of the documentation has it: two pictures, captioned pictures, a data set."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from re import findall, sub

import pytest

from lens_multimodal import attach_vision
from lens_multimodal.data import Scene, read_coco
from lens_multimodal.tiny import scenes_folder


@dataclass(frozen=True, kw_only=True)
class Stand:
    """What `dog` and `cat` of the pages stand for: nouns that the trio says of two of its own scenes."""

    dog: str
    cat: str
    dog_picture: Path
    cat_picture: Path

    def in_words_of(self, code: str) -> str:
        """The snippet about pictures whose captions say the word, whatever the weights of the trio are."""
        stands_for = {"dog": self.dog, "cat": self.cat}
        return sub(r"\b(dog|cat)\b", lambda found: stands_for[found[0]], code)


@pytest.fixture(scope="session")
def stand() -> Stand:
    scenes = read_coco(scenes_folder())
    single = [scene for scene in scenes if len(scene.objects) == 1]
    nouns = set(scenes.categories)
    with attach_vision() as lens:
        captions = lens.caption([scene.path for scene in single], max_new_tokens=8)
    said: dict[str, tuple[bool, Scene]] = {}
    for scene, caption in zip(single, captions, strict=True):
        for noun in findall("[a-z]+", caption):
            right = noun == scene.categories[0]
            if noun in nouns and (noun not in said or right > said[noun][0]):
                said[noun] = (right, scene)
    assert len(said) >= 2, "the captions of the tiny trio name no two things"
    ranked = sorted(said, key=lambda noun: (not said[noun][0], noun not in ("dog", "cat"), noun))
    dog = "dog" if "dog" in ranked else next(noun for noun in ranked if noun != "cat")
    cat = next(noun for noun in ("cat", *ranked) if noun in said and noun != dog)
    return Stand(dog=dog, cat=cat, dog_picture=said[dog][1].path, cat_picture=said[cat][1].path)


@pytest.fixture(scope="session")
def prepared(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, made once."""
    folder = tmp_path_factory.mktemp("reader")
    for noun, picture in ((stand.dog, stand.dog_picture), (stand.cat, stand.cat_picture)):
        (folder / f"{noun}.png").write_bytes(picture.read_bytes())
    scenes = scenes_folder()
    pictures = folder / "pictures"
    pictures.mkdir()
    for scene in read_coco(scenes)[:6]:
        shutil.copy(scene.path, pictures / scene.path.name)
        (pictures / scene.path.with_suffix(".txt").name).write_text(scene.captions[0] + "\n")
    (folder / "coco").symlink_to(scenes)
    return folder


@pytest.fixture
def reader(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private copy of the files, as the working directory."""
    folder = tmp_path / "reader"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    return folder
