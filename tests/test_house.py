"""The house: what may import what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "synthgen"
# A layer imports those above it alone; those in one line do not see each other.
LAYERS = """
errors types
base masks
devices
backends
models mini
generators grounders segmenters filters exporters
spec
planning orchestration
store
judging
pipeline
dataset calibration
report
review flow training
schedule bench
cli
"""
RANK = {name: rank for rank, line in enumerate(LAYERS.split("\n")) for name in line.split()}
# Narrower than its layer: a server must be there before anything else is known.
ORCHESTRATION = {"errors", "base", "models", "spec"}
TRAINING = ("mini/training/", "mini/__main__.py")  # train the embedded models; the rest of mini/ is what runs use
MAX_MODULE_LINES, MAX_CLASS_LINES, MAX_METHODS = 350, 250, 25


def layer(file: str) -> str:
    """The layer of a file of the package, by its path in it."""
    first = file.partition("/")[0].removesuffix(".py")
    return "training" if file.startswith(TRAINING) else first


def imported(source: str, file: str) -> Iterator[str]:
    """The files of the package that a file imports, also within its functions."""
    for node in ast.walk(ast.parse(source, file)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for parts in (name.split(".") for name in names if name.startswith("synthgen.")):
            for end in range(len(parts), 1, -1):
                path = "/".join(parts[1:end])
                if (PACKAGE / f"{path}.py").is_file():
                    yield f"{path}.py"
                    break
                if (PACKAGE / path / "__init__.py").is_file():
                    yield f"{path}/__init__.py"
                    break


def breaches(source: str, file: str) -> list[str]:
    own = layer(file)
    if own == "__init__":
        return []
    found = []
    for other in {layer(name) for name in imported(source, file)} - {own}:
        if RANK[other] >= RANK[own] or (own == "orchestration" and other not in ORCHESTRATION):
            found.append(f"{file} imports {other}")
    return sorted(found)


def test_imports_point_one_way() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        assert breaches(path.read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("base/files.py", "from synthgen.store.run import Run"),
        ("filters/sharpness.py", "def f():\n    from synthgen.filters_ import x\n    import synthgen.spec"),
        ("filters/sharpness.py", "from synthgen.exporters import coco"),
        ("orchestration/server.py", "from synthgen.store import lease"),
        ("mini/scenes.py", "from synthgen.generators import diffusion"),
        ("spec/schema.py", "from synthgen import cli"),
    ],
)
def test_an_import_that_is_forbidden_is_found(file: str, line: str) -> None:
    assert len(breaches(line, file)) == 1


def test_no_module_imports_itself_by_way_of_others() -> None:
    files = {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py")}
    after = {file: {name for name in imported(text, file) if name != file} for file, text in files.items()}
    while free := {file for file, names in after.items() if not names & after.keys()}:
        after = {file: names for file, names in after.items() if file not in free}
    assert after == {}


def test_few_modules_stand_at_the_top() -> None:
    top = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    assert top == {"devices", "errors", "flow", "masks", "schedule", "types"}


def oversized(source: str, file: str) -> list[str]:
    """The module and its classes that are longer than a person reads at a time."""
    lines = [f"{file} has {n} lines"] if (n := len(source.splitlines())) > MAX_MODULE_LINES else []
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) for inner in node.body)
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_CLASS_LINES or methods > MAX_METHODS:
                lines.append(f"{file}: {node.name} has {length} lines and {methods} methods")
    return lines


def test_modules_and_classes_are_small() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if not file.startswith("mini/training/"):  # each is one recipe, read from its beginning to its end
            assert oversized(path.read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\n" * (MAX_MODULE_LINES + 1),
        "class A:\n" + "    x = 1\n" * MAX_CLASS_LINES,
        "class A:\n" + "".join(f"    def f{i}(self): ...\n" for i in range(MAX_METHODS + 1)),
    ],
)
def test_what_is_too_long_is_found(source: str) -> None:
    assert len(oversized(source, "x.py")) == 1
