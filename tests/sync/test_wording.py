from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sync.wording import SENTENCES, sentence


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    words: tuple[str, ...] = ()


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    needed: int
    text: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    choice: Literal["a", "b"] = "a"
    inner: _Inner = _Inner()
    names: Annotated[list[str], Field(max_length=1)] = []
    on: bool = True

    @field_validator("text")
    @classmethod
    def _no_x(cls, text: str) -> str:
        if "x" in text:
            raise ValueError("An x is not for here")
        return text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "is missing"),
        ({"needed": "many"}, "must be a whole number"),
        ({"needed": 1, "text": "a"}, "must have at least 2 characters"),
        ({"needed": 1, "text": "abcd"}, "has more than 3 characters"),
        ({"needed": 1, "text": "ax"}, "an x is not for here"),
        ({"needed": 1, "share": 0}, "must be above 0.0"),
        ({"needed": 1, "share": 2}, "must be at most 1.0"),
        ({"needed": 1, "share": float("nan")}, "must be a number that ends"),
        ({"needed": 1, "share": float("inf")}, "must be a number that ends"),
        ({"needed": 1, "choice": "c"}, "must be one of 'a' or 'b'"),
        ({"needed": 1, "inner": {"words": "ls -l"}}, "must be a list"),
        ({"needed": 1, "inner": 3}, "must be a table of names and values"),
        ({"needed": 1, "names": ["a", "b"]}, "has more than 1 entries"),
        ({"needed": 1, "on": "perhaps"}, "must be true or false"),
        ({"needed": 1, "colour": 1}, "is no name that is known here"),
    ],
)
def test_every_fault_is_told_in_the_words_of_whoever_wrote_it(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as wrong:
        _Asked.model_validate(given)

    (fault,) = wrong.value.errors()
    assert sentence(fault) == said


def test_no_sentence_speaks_of_the_library_that_found_the_fault() -> None:
    for told in SENTENCES.values():
        assert "input" not in told.lower()
        assert "valid" not in told
