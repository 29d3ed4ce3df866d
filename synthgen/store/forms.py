"""The forms of a run folder's records: their keys and types. A seal shows that a record is as it was written, but not
who wrote it: whoever changes a record can seal it again."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic takes Python's own from 3.12 on

Count = Annotated[int, Field(ge=0, le=10**12)]
Size = Annotated[int, Field(ge=0, lt=2**63)]  # of a file, in bytes
Weight = Annotated[float, Field(ge=0, le=1e12)]
FileName = Annotated[str, Field(pattern=r"^[^\x00\n]+$")]
Text = Annotated[str, Field(max_length=10_000)]
_MORE = ConfigDict(extra="allow", allow_inf_nan=False)
_NO_MORE = ConfigDict(extra="forbid", allow_inf_nan=False)


@with_config(_MORE)
class _Where(TypedDict):
    batch_size: NotRequired[Annotated[int, Field(ge=1)]]


@with_config(_MORE)
class _Environment(TypedDict):
    """In the mark of a plan, this is its round."""

    generator: NotRequired[_Where]
    grounder: NotRequired[_Where]
    segmenter: NotRequired[_Where]


@with_config(_MORE)
class _Notes(TypedDict):
    again: NotRequired[dict[str, Count]]
    failed: NotRequired[dict[Annotated[str, Field(pattern=r"^[0-9]{1,18}$")], str]]
    remarks: NotRequired[list[str]]
    reviews: NotRequired[tuple[Count, str]]


@with_config(_NO_MORE)
class _Mark(TypedDict):
    """`marks.Mark`."""

    inputs: str
    files: dict[FileName, tuple[Size, str]]
    seconds: NotRequired[Weight]
    counts: NotRequired[dict[str, Count]]
    environment: NotRequired[_Environment]
    notes: NotRequired[_Notes]


@with_config(_NO_MORE)
class _Round(TypedDict):
    """`plan.Round`."""

    number: Annotated[int, Field(ge=1)]
    start: Annotated[int, Field(ge=0, lt=10**7)]
    count: Annotated[int, Field(ge=1, le=10**7)]
    classes: dict[int, Weight]
    objects: dict[Annotated[int, Field(ge=0, le=64)], Weight]


@with_config(_MORE)
class _Stated(TypedDict):
    """`licences.stated_by`."""

    field: str
    model: str
    revision: str | None
    licences: list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None


@with_config(_MORE)
class _Model(TypedDict):
    model: str | None
    revision: str | None
    weights: str
    licences: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    stated: NotRequired[list[_Stated]]


@with_config(_MORE)
class _Module(TypedDict):
    """`unloaded.record`."""

    use: str
    fingerprint: dict[str, Any]
    untouched: NotRequired[list[str]]
    scope: NotRequired[str]


@with_config(_MORE)
class _Facts(TypedDict):
    """`run.json`."""

    made_from: dict[str, Any]
    run: NotRequired[Annotated[int, Field(ge=1, le=99_999)]]
    synthgen: NotRequired[str]
    models: NotRequired[dict[str, _Model]]
    modules: NotRequired[dict[str, _Module]]
    spec: NotRequired[str]


MARK: TypeAdapter[Any] = TypeAdapter(_Mark)
ROUND: TypeAdapter[Any] = TypeAdapter(_Round)
FACTS: TypeAdapter[Any] = TypeAdapter(_Facts)
