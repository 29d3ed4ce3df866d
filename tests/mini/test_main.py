"""The commands of `python -m synthgen.mini`."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from trainings import TRAININGS
from typer.testing import CliRunner

from synthgen.errors import RunError
from synthgen.mini import __main__
from synthgen.mini.training import sam
from synthgen.mini.training.trainer import Options


def test_command(tmp_path, monkeypatch):
    asked: list[Options] = []
    monkeypatch.setattr(sam, "train", asked.append)
    result = CliRunner().invoke(__main__.app, ["train", "sam", "--work", str(tmp_path), "--resume", "--seed", "4"])
    assert result.exit_code == 0, result.output
    assert asked == [replace(Options(tmp_path), hours=2.0, resume=True, seed=4)]
    assert json.loads(json.dumps(__main__.HOURS)).keys() == TRAININGS.keys()


@pytest.mark.parametrize(("what", "lines"), [("autoencoder", 2), ("sam", 7)])
def test_the_command_scores(what, lines, tmp_path):
    result = CliRunner().invoke(__main__.app, ["score", what, "--count", "8"])
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"\d\.\d", result.output)) >= lines


def test_a_model_that_is_not_there(tmp_path: Path):
    result = CliRunner().invoke(__main__.app, ["score", "sam", "--count", "8", "--work", str(tmp_path)])
    assert result.exit_code != 0


def test_cards_are_written_whole():
    result = CliRunner().invoke(__main__.app, ["score", "clip", "--write"])
    assert isinstance(result.exception, RunError) and "leave 'clip' out" in str(result.exception)
