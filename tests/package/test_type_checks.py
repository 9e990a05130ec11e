"""The type checks of the test run refuse what jaxtyping and beartype refuse."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from tests.type_checks import checked, jaxtyped

if TYPE_CHECKING:
    from tests.nowhere import Unknown

check = partial(jaxtyped, typechecker=checked)


@check
def product(left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"]) -> Float[Tensor, "row column"]:
    return left @ right


@check
def transposed(given: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    return given.T


@check
def unknown(name: "Unknown", number: int) -> None:
    """Annotated with what is only imported for type checkers."""


@check
def outer() -> Callable[..., Tensor]:
    @check
    def inner(left: Float[Tensor, " axis"], right: Float[Tensor, " axis"]) -> Float[Tensor, " axis"]:
        return left + right

    return inner


@check
@dataclass
class Holder:
    value: int

    @check
    def plus(self, other: int) -> str:
        return self.value + other


def test_axes_of_all_arguments_and_of_the_result_must_agree():
    assert product(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"right"):
        product(torch.ones(2, 3), torch.ones(4, 4))
    with pytest.raises(jaxtyping.TypeCheckError, match=r"return"):
        transposed(torch.ones(2, 3))
    assert transposed(torch.ones(2, 2)).shape == (2, 2)


def test_names_of_one_call_mean_nothing_in_the_next():
    product(torch.ones(2, 3), torch.ones(3, 4))
    product(torch.ones(5, 6), torch.ones(6, 7))


def test_functions_in_functions_are_checked_at_every_call():
    for size in (2, 3):
        inner = outer()
        assert inner(torch.ones(size), torch.ones(size)).shape == (size,)
        with pytest.raises(jaxtyping.TypeCheckError):
            inner(torch.ones(size), torch.ones(size + 1))


def test_a_name_for_type_checkers_alone_is_anything_and_the_rest_is_checked():
    unknown(object(), 3)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"number"):
        unknown(object(), "three")


def test_dataclasses_and_their_methods():
    with pytest.raises(jaxtyping.TypeCheckError, match=r"value"):
        Holder("one")
    with pytest.raises(jaxtyping.TypeCheckError, match=r"other"):
        Holder(1).plus(2.0)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"return"):
        Holder(1).plus(2)


@pytest.mark.usefixtures("as_users_have_it")
def test_they_can_be_switched_off():
    assert Holder(1).plus(2) == 3
    assert transposed(torch.ones(2, 3)).shape == (3, 2)
    assert unknown.__annotations__["name"] == "Unknown"


def test_the_package_is_checked():
    from lens_multimodal.precision import wide

    with pytest.raises(jaxtyping.TypeCheckError):
        wide("no tensor")
