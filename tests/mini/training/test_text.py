"""The tokenizer of whole words."""

import torch

from synthgen.mini.training import captions, text


def test_words_keep_their_vectors_when_others_come(tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "words", lambda: ["cat", "photo"])
    text.word_tokenizer().save_pretrained(tmp_path)
    before = {"table": torch.arange(12.0).view(6, 2), "other": torch.ones(3)}
    monkeypatch.setattr(captions, "words", lambda: ["a", "cat", "dog", "photo"])
    after = text.known_words(before, "table", tmp_path, torch.full((8, 2), -1.0))
    assert after["table"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [-1, -1], [8, 9], [-1, -1], [10, 11]]
    assert torch.equal(after["other"], before["other"])
