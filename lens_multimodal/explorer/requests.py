"""Requests of the page, checked before anything runs."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PictureId = Annotated[str, Field(max_length=64, pattern=r"^(sample|upload)-[0-9a-f]+$")]
TokenId = Annotated[int, Field(ge=0, lt=2**24)]
Index = Annotated[int, Field(ge=0, lt=2**20)]


class Request(BaseModel):
    """Refuses unknown fields and converts nothing."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Look(Request):
    """A picture and the text that follows it."""

    picture: PictureId
    text: str = Field(max_length=400)


class Place(Request):
    """A word and its place: the text, and the caption's tokens before it."""

    text: str = Field(max_length=400)
    before: list[TokenId] = Field(max_length=128)
    target: TokenId


class Where(Place):
    """The positions whose neurons are ranked or changed."""

    positions: Literal["image", "last"] = "image"


class Why(Where):
    """Rank the neurons behind a word."""

    picture: PictureId
    top_k: int = Field(ge=1, le=2**20)


class Factor(Request):
    """One neuron and what its activation is multiplied by."""

    layer: Index
    neuron: Index
    factor: float = Field(ge=-10, le=10, allow_inf_nan=False)


class Change(Where):
    """Change the activations of these neurons."""

    picture: PictureId
    neurons: list[Factor] = Field(max_length=1000)


class Between(Place):
    """Two pictures: activations are copied from the clean one into the run on the corrupted one."""

    clean: PictureId
    corrupted: PictureId


class Patch(Between):
    """Patch some image positions into some layers."""

    layers: list[Index] = Field(max_length=1000)
    patches: list[Index] = Field(max_length=10_000)


class Sweep(Between):
    """Patch every image position into one layer."""

    layer: Index
