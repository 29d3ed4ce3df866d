"""What a wrong value is told."""

from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from synthgen.base.wording import shown, takes


@pytest.mark.parametrize(
    ("kind", "got", "words"),
    [
        (int, "x", "takes a whole number"),
        (int, 1.5, "takes a whole number"),
        (int, "0x10", "takes a whole number, written in plain decimal"),
        (float, "1:30", "takes a number, written in plain decimal"),
        (int, None, "takes a whole number"),
        (float, "x", "takes a number"),
        (Annotated[float, Field(allow_inf_nan=False)], float("inf"), "takes a finite number"),
        (str, 7, "takes text; put it in quotes"),
        (str, 1.5, "takes text; put it in quotes"),
        (str, None, "takes text; put it in quotes"),
        (
            str,
            False,
            "takes text; put it in quotes (without them yes, on and true are True, and no, off and false are False)",
        ),
        (str, ["a"], "takes text"),
        (bool, "perhaps", "takes true or false"),
        (list[int], 3, "takes a list"),
        (tuple[int, ...], 3, "takes a list"),
        (dict[str, int], 3, "takes a mapping of keys to values"),
        (Annotated[int, Field(ge=1)], 0, "takes 1 or more"),
        (Annotated[int, Field(le=9_999_999)], 10**9, "takes at most 9,999,999"),
        (Annotated[float, Field(gt=0.5)], 0.5, "takes more than 0.5"),
        (Annotated[float, Field(lt=1.0)], 1.0, "takes less than 1"),
        (Annotated[int, Field(multiple_of=8)], 130, "takes a multiple of 8, such as 128"),
        (Annotated[int, Field(multiple_of=8)], 1, "takes a multiple of 8, such as 8"),
        (Annotated[str, Field(min_length=1)], "", "takes at least 1 character"),
        (Annotated[str, Field(max_length=3)], "long", "takes at most 3 characters"),
        (Annotated[list[int], Field(min_length=1)], [], "takes at least 1 entry"),
        (Annotated[list[int], Field(max_length=2)], [1, 2, 3], "takes at most 2 entries"),
        (Annotated[str, Field(pattern="^x$")], "y", "takes text that matches ^x$"),
        (Literal["link", "copy"], "lnk", "takes 'link' or 'copy' (did you mean 'link'?)"),
        (Literal["link", "copy"], "zzz", "takes 'link' or 'copy'"),
        (Literal[1], 2, "takes 1"),
    ],
)
def test_takes(kind: Any, got: Any, words: str) -> None:
    with pytest.raises(ValidationError) as error:
        TypeAdapter(kind).validate_python(got)
    (found,) = error.value.errors()
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    assert takes(found["type"], found.get("ctx", {}), got, choices) == words


def test_what_has_no_words_here_is_left_to_pydantic() -> None:
    assert takes("frozen_field", {}, 1) is None


def test_long_values_are_cut() -> None:
    assert shown("x") == "'x'"
    assert len(shown("x" * 1000)) == 78 and shown("x" * 1000).endswith("…")
