"""Text that must match a regular expression, with words for people beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pattern:
    """Annotates a field of a pydantic model: `Annotated[str, Pattern("^[a-z]+$", "small letters")]`.

    The JSON Schema is that of `Field(pattern=...)`. The error line says the words, because few people read a regular
    expression at a glance.

    Attributes:
        regex: what the whole text must match.
        words: what the field takes; completes a sentence that begins with "takes".
    """

    regex: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.regex}

    def _checked(self, text: str) -> str:
        if not re.fullmatch(self.regex, text):
            raise ValueError(f"takes {self.words}")
        return text


# A prompt for CLIP and for detectors that read text, such as "a photo of a {}".
ONE_GAP = Pattern(r"^[^{}]*\{\}[^{}]*$", "text with one {} in it, where the word goes")
