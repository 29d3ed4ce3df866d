"""`python -m synthgen.mini`: trains and scores the embedded models."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from synthgen.base.files import expand_home
from synthgen.errors import RunError, SynthgenError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Trains and scores the embedded models: small ones in the formats of the big ones.",
)
HOURS = {"autoencoder": 0.5, "diffusion": 8.0, "sam": 2.0, "clip": 1.0}
DEFAULTS = ", ".join(f"{name} {hours:g}" for name, hours in HOURS.items())


@app.command()
def train(
    model: Annotated[Literal["autoencoder", "diffusion", "sam", "clip"], typer.Argument(help="The model to train.")],
    work: Annotated[
        Path, typer.Option(metavar="DIR", parser=expand_home, help="Folder for checkpoints, curves and models.")
    ],
    hours: Annotated[
        float | None,
        typer.Option(min=0.001, help=f"Hours that the whole training takes. Default: {DEFAULTS}."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End after this many steps, however long they take.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in DIR.")] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=expand_home,
            help="Start from the weights of an earlier model. Give it again with --resume.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Peak learning rate. With --start, a third of the default keeps what the model knows.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    torch_dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 where the chip computes in it.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw scenes.")] = 1,
) -> None:
    """Train a model on composed scenes. The diffusion model needs the autoencoder first.

    The training writes a checkpoint every five minutes, at the end, and when it is stopped (Ctrl-C, SIGTERM). With each
    it exports the model into DIR/autoencoder, DIR/diffusion, DIR/sam or DIR/clip, and its figures into DIR/curves.
    """
    from transformers.utils import logging

    from synthgen.mini.training.trainer import Options

    logging.disable_progress_bar()  # It would show one for every file that a checkpoint writes.
    options = Options(
        work, HOURS[model] if hours is None else hours, steps, seed, resume, start, learning_rate, device, torch_dtype,
        workers,
    )  # fmt: skip
    import_module(f"synthgen.mini.training.{model}").train(options)


@app.command()
def score(
    what: Annotated[
        Literal["speed", "autoencoder", "diffusion", "sam", "clip", "discovery"] | None,
        typer.Argument(help="The score to compute. Default: all of them."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=expand_home, help="Folder of trained models. Default: the embedded ones."),
    ] = None,
    count: Annotated[int, typer.Option(min=8, help="Number of held-out scenes, and of prompts, in each score.")] = 500,
    write: Annotated[
        bool, typer.Option("--write", help="Write the tables, and a sheet of 64 samples, into the models' cards.")
    ] = False,
) -> None:
    """Score the models on held-out scenes and prompts."""
    from PIL import Image
    from rich.console import Console
    from rich.table import Table

    from synthgen.mini.training import scoring
    from synthgen.mini.training.bench import Bench
    from synthgen.mini.training.score_cards import Score, contact_sheet, write_scores
    from synthgen.models import MINI

    if write and what:
        raise RunError(f"--write writes all scores into the cards; leave {what!r} out")
    root = work or MINI
    bench = Bench(root / "diffusion", root / "sam", root / "clip", count)
    chosen = {name: table for name, table in scoring.TABLES.items() if what in (None, name)}
    cards: dict[str, list[Score]] = {}
    for name, (card, scored) in chosen.items():
        scores = scored(bench)
        cards.setdefault(card, []).extend(scores)
        table = Table("what", "measured", "wanted", title=name, title_justify="left")
        for line in scores:
            table.add_row(line.what, line.value, line.wanted)
        Console().print(table)
    if write:
        for card, scores in cards.items():
            write_scores(root / card, scores)
        if "diffusion" in chosen:
            Image.fromarray(contact_sheet(bench)).save(root / "diffusion" / "samples.webp", quality=85)


def main() -> None:
    """Runs the command. An error for users becomes one line and its exit code."""
    try:
        app(prog_name="python -m synthgen.mini")
    except SynthgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
