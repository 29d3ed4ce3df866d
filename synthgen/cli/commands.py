"""The list of commands. The module of a command is imported when the command is used."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Module in `synthgen.cli` -> title in `synthgen --help`, and its commands with what each does, in a line.
GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "make": (
        "Make a dataset",
        {
            "new": "Write NAME.yaml, a commented spec to start from.",
            "check": "Find everything wrong with specs before anything is made.",
            "plan": "Show what a run would make, and make nothing.",
            "run": "Make, label, filter and export a dataset, or resume a run.",
            "label": "Label the images of a run again.",
        },
    ),
    "look": (
        "Look at it",
        {
            "status": "Show what is done in a run and what is left.",
            "show": "Draw a contact sheet: images with masks, boxes and classes.",
            "report": "Write the report and the dataset card of a run.",
            "runs": "List the runs of a spec with their yield and speed.",
        },
    ),
    "judge": (
        "Judge it",
        {
            "judge": "Apply the filters of a run again, with other thresholds.",
            "review": "Accept, reject and correct labels: in the browser, or by a file.",
            "calibrate": "Measure how well the filters of a spec catch faults.",
        },
    ),
    "share": (
        "Share it",
        {
            "export": "Write the exports of a run again, or write other formats.",
            "push": "Upload a dataset to the Hugging Face hub.",
        },
    ),
    "compare": (
        "Compare it",
        {"diff": "Show what differs between two datasets."},
    ),
    "operate": (
        "Operate",
        {
            "schedule": "Make the next run of a spec on a schedule, until stopped.",
            "verify": "Check every checksum, mask and id of a run.",
            "remake": "Make one image again and compare its pixels.",
            "bench": "Time a run against a bare loop over the same models.",
            "models": "List the known models or those of a spec, or download them.",
            "schema": "Print the JSON Schema of specs, for editors.",
        },
    ),
}


class LazyCommand(TyperCommand):
    """A command that is known by name and summary until it is used."""

    def __init__(self, name: str, module: str, summary: str, panel: str) -> None:
        super().__init__(name, help=summary, short_help=summary, rich_help_panel=panel)
        self._module = module

    def load(self) -> TyperCommand:
        """The whole command, with its parameters and its help: the function of its name in its module."""
        assert self.name
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        function = getattr(import_module(f"synthgen.cli.{self._module}"), self.name)
        paragraphs = (inspect.getdoc(function) or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # The screen breaks the lines.
        app.command(self.name, help=text, short_help=self.short_help, rich_help_panel=self.rich_help_panel)(function)
        command = typer.main.get_command(app)
        assert isinstance(command, TyperCommand)
        return command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the whole command, which typer then runs, completes or describes."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


class Commands(TyperGroup):
    """The commands of `GROUPS`, and those that are registered besides."""

    def __init__(self, *, commands: Any = None, **options: Any) -> None:
        lazy = {
            name: LazyCommand(name, module, summary, panel)
            for module, (panel, summaries) in GROUPS.items()
            for name, summary in summaries.items()
        }
        super().__init__(commands={**lazy, **(commands or {})}, **options)
