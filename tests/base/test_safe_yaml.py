"""The safe reader of YAML: numbers as they are written, aliases within limits, and what it refuses."""

from pathlib import Path

import pytest
import yaml

from synthgen.base.safe_yaml import MAX_BYTES, MAX_NODES, MAX_WRITTEN, as_written, load_yaml, read_yaml_text
from synthgen.errors import SpecError


def test_yaml_limits_let_ordinary_aliases_through() -> None:
    assert load_yaml("a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  m: 2\n") == {
        "a": {"k": 1},
        "b": {"k": 1},
        "c": {"k": 1, "m": 2},
    }


def test_numbers_that_specs_in_run_folders_have_are_numbers() -> None:
    """As PyYAML writes them."""
    values = [
        *(0, -7, 10**18, 0.5, 1e-05, 1e16, -2.5e-07, 1.0, True, None),
        *("010", "1_0", "12:00", "1e3", "no", ".5", "=", "~"),
    ]
    assert load_yaml(yaml.safe_dump(values)) == values
    assert [isinstance(v, float) for v in load_yaml(yaml.safe_dump(values))] == [isinstance(v, float) for v in values]


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [("+5", 5, "+5"), ("1.40", 1.4, "1.40"), ("7", 7, "7"), ("0.5", 0.5, "0.5"), ("12:00", "12:00", "12:00")],
)
def test_a_number_remembers_how_it_is_written(text: str, value: object, written: str) -> None:
    loaded = load_yaml(text)
    assert loaded == value and as_written(loaded) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "the key 'a' stands twice, again in line 2, column 1"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("!!map [1]", "its tag says that it is a mapping, and it is none"),
        ("? [1]\n: 2", "a key that is a list or a mapping"),
        ("a: &a [*a]", "an alias that is part of itself"),
        ("[" * 5000, "nested too deeply"),
        ("a: !!int x", "got 'x', which is no int"),
        ("x" * (MAX_BYTES + 1), "takes at most 1,000,000 characters"),
        ("[" + "1," * MAX_WRITTEN + "]", "more than 40,000 values"),
        (
            "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9 if i else 1}]\n" for i in range(9)),
            f"more than {MAX_NODES:,} values",
        ),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        load_yaml(text)
    assert message in str(error.value)


def test_a_long_file_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(b"#" * (4 * MAX_BYTES + 1))
    with pytest.raises(SpecError, match="has more"):
        read_yaml_text(file)
    assert yaml.safe_load(read_yaml_text(file, 2)) is None
