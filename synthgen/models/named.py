"""The models that a spec names, as backends see them: where the files are, their licences, and whether they can be
loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from synthgen.backends import Model, ModelConfig, Source
from synthgen.base.wording import plain, shown
from synthgen.errors import BackendError, Problem
from synthgen.models import (
    ModelIncomplete,
    ModelMissing,
    existing,
    fetch_command,
    is_hub_id,
    model_identity,
    read_card,
    snapshot_of,
)
from synthgen.models.licences import stated_in_readme


class ModelFiles(Model):
    """A model in a folder, or in a single file.

    Attributes:
        field: the option of the spec that names the model.
        config: the options with `model` and `revision`.
    """

    field = ".model"
    config: ModelConfig

    @abstractmethod
    def path(self) -> Path:
        """Where the model is. Raises: ModelMissing: it is not on this machine."""

    @abstractmethod
    def inspect(self) -> Any:
        """The contents of its files, read without torch.

        Raises:
            ModelMissing: the model is not on this machine.
            BackendError: it cannot be loaded, or it must not be loaded.
        """

    def problems(self) -> Iterable[Problem]:
        source = self.source()
        try:
            self.inspect()
        except ModelIncomplete as error:
            fetch = fetch_command(source.model, source.revision, source.variant, source.files)
            is_of_hub = is_hub_id(source.model) and existing(source.model) is None
            yield Problem(self.field, str(error) + f"; fetch what is missing with: {fetch}" * is_of_hub)
        except (ModelMissing, BackendError) as error:
            yield Problem(self.field, str(error))

    def source(self) -> Source:
        return Source(self.config.model, self.config.revision)

    def advice(self) -> Iterable[Problem]:
        """A note if a folder takes the place of a model of the hub."""
        model = self.source().model
        if not is_hub_id(model) or (folder := existing(model)) is None:
            return
        other = snapshot_of(model, self.source().revision or "main", "sam")
        note = f"{shown(model)} is the folder {plain(str(folder), 200)}, and not the model of this id on the hub"
        note += ", though that is on this machine, too" * bool(other)
        yield Problem(self.field, f"{note}; to use the hub's, start from another working directory")

    def identity(self) -> str:
        return model_identity(self.path())

    def licences(self) -> Iterable[tuple[str, str]]:
        """The licence in its card, or else its publisher's."""
        card = read_card(self.path())
        licence = (card.licence.name, card.licence.url) if card.licence else self.known_licence()
        return [licence] if licence else []

    def stated_licences(self) -> Iterable[tuple[str, str]]:
        """The licence in its card, or else in the header of its `README.md`, or else its publisher's."""
        path = self.path()
        if read_card(path).licence is None:
            for folder in (path, *path.parents):
                # A README.md beside a file in a folder of the user's may speak of other things.
                is_models = folder == path or folder.parent.name == "snapshots"
                is_models |= folder == path.parent and (folder / "model_index.json").is_file()
                if is_models and (stated := stated_in_readme(folder, self.source().model)):
                    return stated
        return self.licences()

    def known_licence(self) -> tuple[str, str] | None:
        """(name, url) of the licence of a published model that comes without a card."""
        return None


class PackagedModel(Model):
    """A model whose weights come with a Python package.

    Args:
        use: the backend that needs it, as the spec names it.
        packages: what must be installed; the first one has the weights.
        install: the command that installs them.
        licence: (name, url) of the weights' licence.
    """

    def __init__(self, use: str, packages: tuple[str, ...], install: str, licence: tuple[str, str]) -> None:
        self.use, self.packages, self.install, self.licence = use, packages, install, licence

    def stated_licences(self) -> Iterable[tuple[str, str]]:
        return [self.licence]

    def problems(self) -> Iterable[Problem]:
        if missing := [name for name in self.packages if find_spec(name) is None]:
            yield Problem(".use", f"{self.use!r} needs {' and '.join(missing)}: {self.install}")

    def identity(self) -> str:
        """The package's version: the weights change only with it."""
        package = self.packages[0]
        try:
            return f"{package}=={version(package)}"
        except PackageNotFoundError as error:
            raise ModelMissing(f"{self.use!r} needs {package}: {self.install}") from error
