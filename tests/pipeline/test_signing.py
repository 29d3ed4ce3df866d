"""Exports that are signed: what `check` says of a certificate, what is signed, and what signs it again."""

import io
import json
from pathlib import Path
from typing import Any

import c2pa
import pyexiv2
import pytest
from builds import changed, rewritten, state
from cryptography.hazmat.primitives.asymmetric import ec
from runs import images
from signers import chain, credentials, pem

from synthgen.backends import ImageOptions, backend_module, builtin
from synthgen.dataset.growth import grow
from synthgen.errors import SpecError
from synthgen.pipeline import signing
from synthgen.pipeline.check import check
from synthgen.pipeline.verification import inspect
from synthgen.spec import DatasetSpec, load_spec

MIME = {".png": "image/png", ".jpg": "image/jpeg"}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    """The files of a certificate and its key."""
    certificate, key = credentials()
    (tmp_path / "chain.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    return {"certificate": str(tmp_path / "chain.pem"), "key": str(tmp_path / "key.pem")}


def manifest(path: Path) -> dict[str, Any]:
    with c2pa.Reader(MIME[path.suffix], io.BytesIO(path.read_bytes())) as reader:
        assert reader.get_validation_state() == "Valid"
        return dict(json.loads(reader.json())["manifests"][json.loads(reader.json())["active_manifest"]])


def test_every_exported_image_is_signed_and_no_image_of_the_run(copied, quick, run_through, given, monkeypatch) -> None:
    exporters = {"coco": {}, "small": {"use": "coco", "images": "jpeg", "quality": 60}}
    raw = {**quick, "exporters": exporters, "provenance": {"c2pa": given}}
    root = copied / "fruit" / "run-0001"
    made = images(root)
    build = run_through(raw, copied)
    assert images(root) == made  # and they have no manifest:
    assert not any(b"caBX" in data for data in made.values())
    for name, ending in (("coco", "png"), ("small", "jpg")):
        paths = sorted(root.glob(f"{name}/*/*.{ending}"))
        assert len(paths) == 8
        for path in paths:
            (action,) = manifest(path)["assertions"][0]["data"]["actions"]
            assert action["action"] == "c2pa.created" and action["softwareAgent"]["name"] == "synthgen mini"
            assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
            (own,) = root.glob(f"images/*/{path.stem}.png")
            with pyexiv2.ImageData(path.read_bytes()) as exported, pyexiv2.ImageData(own.read_bytes()) as original:
                assert exported.read_xmp() == original.read_xmp()
    assert build.is_complete()
    grow(build)
    assert all(manifest(path) for path in (root.parent / "dataset").glob("coco/*/*.png"))

    before = state(root)
    monkeypatch.setenv("SIGNING_KEY", credentials()[1].decode())
    run_through(changed(raw, {"provenance.c2pa.key": "$SIGNING_KEY"}), copied)
    assert rewritten(root, before) == set()  # nothing is signed again
    other = Path(given["certificate"]).with_name("other.pem")
    other.write_bytes(credentials()[0])
    run_through(changed(raw, {"provenance.c2pa.certificate": str(other)}), copied)
    assert rewritten(root, before) == {"export", "export-small"}
    run_through({**raw, "provenance": {}}, copied)
    assert all(b"caBX" not in path.read_bytes() for path in root.glob("coco/*/*.png"))


def test_every_format_has_every_image_signed_and_reads_it_back(copied, quick, run_through, given) -> None:
    formats = [n for n in builtin("exporter") if issubclass(backend_module("exporter", n).Config, ImageOptions)]
    raw = {**quick, "exporters": dict.fromkeys(formats), "provenance": {"c2pa": given}}
    build = run_through(raw, copied)
    assert inspect(build).damages == ()
    for name in formats:
        files = [path for path in (build.run.root / name).rglob("*") if path.is_file()]
        claims = sum(path.read_bytes().count(b"c2pa.claim.v2") for path in files)
        assert claims == (sum(path.suffix == ".png" for path in files) if name == "classification" else 8), name


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"certificate": "/nowhere.pem"}, ".certificate", r"cannot read '/nowhere\.pem': No such file"),
        ({"key": "/nowhere.pem"}, ".key", r"cannot read '/nowhere\.pem': No such file"),
        ({"key": "$NOT_SET"}, ".key", r"got '\$NOT_SET'; no such environment variable is set"),
        ({"key": "$OTHER"}, "", "cannot sign with this certificate and this key: .*does not match"),
        ({"key": "$NO_KEY"}, ".key", r"got '\$NO_KEY'; it is no private key in PEM"),
        ({"certificate": "\0"}, ".certificate", "cannot read"),
    ],
)
def test_check_says_why_nothing_can_be_signed(quick, tmp_path, given, monkeypatch, changes, field, said) -> None:
    monkeypatch.setenv("OTHER", pem(ec.generate_private_key(ec.SECP256R1())).decode())
    monkeypatch.setenv("NO_KEY", "none")
    spec = DatasetSpec.parse({**quick, "provenance": {"c2pa": {**given, **changes}}})
    with pytest.raises(SpecError, match=said) as refused:
        check(spec, tmp_path)
    assert [problem.field for problem in refused.value.problems] == [f"provenance.c2pa{field}"]
    assert str(refused.value).count("\n") == 0


def test_both_files_are_named_that_are_missing(quick, tmp_path) -> None:
    spec = DatasetSpec.parse({**quick, "provenance": {"c2pa": {"certificate": "~/no.pem", "key": "$NO_KEY"}}})
    with pytest.raises(SpecError) as refused:
        check(spec, tmp_path)
    assert [problem.field for problem in refused.value.problems] == [
        "provenance.c2pa.certificate",
        "provenance.c2pa.key",
    ]


def test_check_says_what_must_be_installed_and_when_a_certificate_has_expired(
    quick, tmp_path, given, monkeypatch
) -> None:
    spec = DatasetSpec.parse({**quick, "provenance": {"c2pa": given}})
    assert check(spec, tmp_path)
    Path(given["certificate"]).write_bytes(chain(key := ec.generate_private_key(ec.SECP256R1()), years=1))
    Path(given["key"]).write_bytes(pem(key))
    with pytest.raises(SpecError, match="the certificate was not valid at time of signing"):
        check(spec, tmp_path)
    monkeypatch.setattr(signing, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"c2pa: needs c2pa and cryptography: pip install 'synthgen\[c2pa\]'"):
        check(spec, tmp_path)


def test_paths_are_beside_the_spec_and_a_key_itself_is_refused(quick, tmp_path, spec_file, given) -> None:
    beside = {"certificate": "./chain.pem", "key": "../key.pem"}
    spec = load_spec(spec_file({**quick, "provenance": {"c2pa": beside}}))
    assert spec.provenance.c2pa
    assert spec.provenance.c2pa.model_dump() == {
        "certificate": given["certificate"],
        "key": str(tmp_path.parent / "key.pem"),
    }
    key = credentials()[1].decode()
    with pytest.raises(SpecError) as refused:
        DatasetSpec.parse({**quick, "provenance": {"c2pa": {**given, "key": key}}})
    assert str(refused.value).startswith("provenance.c2pa.key: got a key itself; takes the path of a PEM file")
    assert key.splitlines()[1] not in str(refused.value)
