"""Score tables in the models' README."""

import re

import pytest

from synthgen.errors import RunError
from synthgen.mini.training.score_cards import Score, write_scores


def test_card_is_written_between_its_marks(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "model.safetensors").write_bytes(b"x" * 300_000)
    marks = "# A model\n<!-- scores -->\nold\n<!-- /scores -->\nwords\n<!-- files -->\n<!-- /files -->\nend\n"
    (tmp_path / "README.md").write_text(marks)
    for _ in range(2):
        write_scores(tmp_path, [Score("height", "3 m", "≥ 2 m"), Score("width", "1 m")])
    text = (tmp_path / "README.md").read_text()
    assert "| height | 3 m | ≥ 2 m |\n| width | 1 m |  |\n<!-- /scores -->\nwords" in text
    assert "old" not in text and text.count("height") == 1 and text.endswith("<!-- /files -->\nend\n")
    assert re.search(r"\| `part/model.safetensors` \| 0\.3 MB \| `[0-9a-f]{64}` \|", text)
    (tmp_path / "README.md").write_text("# No marks\n")
    with pytest.raises(RunError, match="no marks <!-- scores -->"):
        write_scores(tmp_path, [])
