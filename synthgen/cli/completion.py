"""What the shell offers for an argument. Where nothing is offered, shells fall back to file names."""

from __future__ import annotations

from pathlib import Path


def specs(incomplete: str) -> list[str]:
    """YAML files that begin so, here and a folder below."""
    return _paths(incomplete, ["*.yaml", "*/*.yaml"])


def run_folders(incomplete: str) -> list[str]:
    """Run folders that begin so: those of `outputs`, and those up to two folders below what is typed."""
    return _paths(incomplete, ["run-[0-9]*", "*/run-[0-9]*", "*/*/run-[0-9]*"])


def _paths(incomplete: str, patterns: list[str]) -> list[str]:
    typed = Path(incomplete[: incomplete.rfind("/") + 1])
    if not typed.is_dir():
        return []
    found = {path for pattern in patterns for path in typed.glob(pattern) if not path.name.startswith(".")}
    return sorted(str(path) for path in found if str(path).startswith(incomplete))


def spec_keys(incomplete: str) -> list[str]:
    """Keys of a spec for `--set`, and the names of built-in backends that stand in keys or as `use`."""
    from synthgen.backends import KINDS, builtin
    from synthgen.spec import DatasetSpec

    keys = [f"{name}=" for name in DatasetSpec.model_fields]
    for kind in KINDS.values():
        begin, end = (f"{kind.key}.", ".") if kind.many else (f"{kind.key}.use=", "")
        keys += [f"{begin}{name}{end}" for name in builtin(kind.name)]
    return sorted(key for key in keys if key.startswith(incomplete))


def models(incomplete: str) -> list[str]:
    """Names of known models."""
    from synthgen.models import KNOWN

    return [name for name in KNOWN if name.startswith(incomplete)]
