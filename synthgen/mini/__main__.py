"""`python -m synthgen.mini`: trains the embedded models, and scores them."""

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
    help="Makes the embedded models: small ones, in the formats of the big ones.",
)
HOURS = {"autoencoder": 0.5, "diffusion": 8.0, "sam": 2.0, "clip": 1.0}
DEFAULTS = ", ".join(f"{name} {hours:g}" for name, hours in HOURS.items())


@app.command()
def train(
    model: Annotated[Literal["autoencoder", "diffusion", "sam", "clip"], typer.Argument(help="What to train.")],
    work: Annotated[Path, typer.Option(metavar="DIR", parser=expand_home, help="Where checkpoints and models go.")],
    hours: Annotated[
        float | None,
        typer.Option(min=0.001, help=f"Of the whole training. Default: {DEFAULTS}."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End after so many, whatever the time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in DIR.")] = False,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", parser=expand_home, help="Begin with this earlier model's weights; with --resume, too."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Peak. With --start, about a third of the default keeps what is known.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    torch_dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 where the chip has it.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw scenes.")] = 1,
) -> None:
    """Train a model on scenes drawn as it goes; the diffusion model needs the autoencoder first.

    A checkpoint is written every five minutes, at the end, and when stopped (Ctrl-C, SIGTERM). Each exports the model
    into DIR/autoencoder, DIR/diffusion, DIR/sam or DIR/clip; DIR/curves has what was measured on the way.
    """
    from transformers.utils import logging

    from synthgen.mini.training.trainer import Options

    logging.disable_progress_bar()  # one for every file that a checkpoint writes
    options = Options(
        work, HOURS[model] if hours is None else hours, steps, seed, resume, start, learning_rate, device, torch_dtype,
        workers,
    )  # fmt: skip
    import_module(f"synthgen.mini.training.{model}").train(options)


@app.command()
def score(
    what: Annotated[
        Literal["speed", "autoencoder", "diffusion", "sam", "clip", "discovery"] | None,
        typer.Argument(help="Default: all."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=expand_home, help="Where they were trained. Default: the embedded ones."),
    ] = None,
    count: Annotated[int, typer.Option(min=8, help="Held-out scenes, and prompts, of each score.")] = 500,
    write: Annotated[
        bool, typer.Option("--write", help="Put the tables, and a sheet of 64 samples, into the models' cards.")
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
        raise RunError(f"--write puts all scores into the cards; leave {what!r} out")
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
    """Runs the command; an error for people becomes one line, and its exit code."""
    try:
        app(prog_name="python -m synthgen.mini")
    except SynthgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
