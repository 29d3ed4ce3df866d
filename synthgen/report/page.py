"""`report.html`: a run's `quality.json` and some of its images, in one file that loads nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from synthgen import __version__
from synthgen.base.files import read_bytes
from synthgen.base.wording import one_line
from synthgen.dataset.history import drop, history
from synthgen.errors import RunError
from synthgen.judging.quality import DAMAGED
from synthgen.pipeline.build import Build
from synthgen.pipeline.export import content_hash
from synthgen.report.card import dataset_card, forbidding, models_of
from synthgen.report.thumbnails import thumbnails

HERE = Path(__file__).parent
MATRIX_CLASSES = 24  # With more classes, confusions are listed instead of drawn as a matrix.
LISTED_CONFUSIONS = 60
PROMPT_LENGTH = 400  # characters that are shown


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


FORMATS: dict[str, Callable[[Any], str]] = {
    "count": lambda n: f"{n:,}",
    "percent": lambda share: f"{100 * share:.1f}".removesuffix(".0") + " %",
    "number": lambda value: "not measured" if value is None else f"{value:.3g}",
    "clock": clock,
    "plain": str,
}


def write(build: Build) -> Path:
    """Writes the report and the dataset card if what they are made from has changed; -> the report's file.

    Raises:
        RunError: the run has not been judged yet, or an image of the report is damaged.
    """
    run, inputs = build.run, build.inputs("report")
    if inputs is None:
        raise RunError(f"{run.root} has not been judged yet; run the spec first")
    if not run.marks.is_done("report", None, inputs):
        try:
            quality = orjson.loads(read_bytes(run.paths.quality))
            # Other runs are not among the inputs of a report: it says how they were when it was written.
            if behind := drop([past for past in history(run.root.parent) if past.number <= run.number]):
                quality["notes"].append(behind)
            texts = ((run.paths.report, page(build, quality)), (run.paths.card, dataset_card(build, quality)))
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, jinja2.UndefinedError) as error:
            why = one_line(error, 200)
            raise RunError(f"{DAMAGED} ({type(error).__name__}: {why})") from error
        run.marks.withdraw("report")
        for path, text in texts:
            with run.files.writing(path) as file:
                file.write(text.encode())
        run.marks.commit("report", None, inputs, [run.paths.report, run.paths.card])
    return run.paths.report


def page(build: Build, quality: dict[str, Any]) -> str:
    """The HTML of a report. Each number in it names the key in `quality` that it comes from."""
    kinds: dict[int, dict[str, Any]] = {}
    for kind, rows in quality["samples"].items():
        for place, row in enumerate(rows):
            entry = kinds.setdefault(row["image_id"], {"kinds": [], "key": f"samples.{kind}.{place}", "row": row})
            entry["kinds"].append(kind)
    shown = set(kinds) | {pair[side] for pair in quality["duplicates"] for side in ("image_id", "like")}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip

    def number(key: str, form: str = "count") -> Markup:
        """The number under a key of `quality.json` such as `scores.0.median`, as an element that names the key."""
        value: Any = quality
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return Markup('<data value="{}" data-key="{}">{}</data>').format(value, key, FORMATS[form](value))

    environment.globals |= {"q": quality, "n": number}
    environment.filters |= FORMATS
    script = (HERE / "report.js").read_text(encoding="utf-8")
    names = [c.name for c in build.spec.categories]
    used = models_of(quality)
    return environment.get_template("report.html.j2").render(
        spec=build.spec,
        content_hash=content_hash(build),
        forbidding=forbidding(used),
        licences={
            model["stage"]: [one.licence for one in used if one.field.startswith(f"{model['stage']}.")]
            for model in quality["models"]
        },
        categories=build.spec.categories,
        thumbnails=thumbnails(build, shown),
        entries=kinds,
        reasons=sorted({r for entry in kinds.values() for r in entry["row"]["reasons"]}),
        matrix=_matrix(quality["asked_found"], names) if len(names) <= MATRIX_CLASSES else None,
        confusions=_confusions(quality["asked_found"]),
        prompt_length=PROMPT_LENGTH,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        version=__version__,
    )


def _matrix(cells: list[dict[str, Any]], names: list[str]) -> list[list[tuple[int, float] | None]]:
    """Rows: the class asked for; columns: the class found; the last of each stands for no object. A cell has its index
    in `cells` and its share of the row; None for no objects."""
    place = {name: i for i, name in enumerate(names)}
    rows: list[list[tuple[int, float] | None]] = [[None] * (len(names) + 1) for _ in range(len(names) + 1)]
    totals: dict[str | None, int] = {}
    for cell in cells:
        totals[cell["asked"]] = totals.get(cell["asked"], 0) + cell["instances"]
    for k, cell in enumerate(cells):
        row, column = (place.get(cell[side], len(names)) for side in ("asked", "found"))
        rows[row][column] = (k, cell["instances"] / totals[cell["asked"]])
    return rows


def _confusions(cells: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The largest cells off the diagonal, each with its index."""
    off = [(k, cell) for k, cell in enumerate(cells) if cell["asked"] != cell["found"]]
    return sorted(off, key=lambda item: -item[1]["instances"])[:LISTED_CONFUSIONS]
