"""Signatures by C2PA, read by its own library. No certificate here is one that a person would trust."""

import io
import json
import socket
from typing import Any

import c2pa
import cv2
import numpy as np
import pyexiv2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from signers import OFFLINE, chain, credentials, pem, signed

from synthgen import __version__
from synthgen.base.image_metadata import Metadata
from synthgen.base.signing import Signer
from synthgen.base.xmp import SOURCE_TYPES, Origin

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
FORMATS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
ORIGIN = Origin("compositeWithTrainedAlgorithmicMedia", "stabilityai/sdxl", "0123", "a cat")
P256 = ec.generate_private_key(ec.SECP256R1())


def encoded(mime: str) -> bytes:
    quality = [cv2.IMWRITE_WEBP_QUALITY, 90] if mime == "image/webp" else []
    return cv2.imencode(FORMATS[mime], PIXELS, quality)[1].tobytes()


def read(data: bytes, mime: str) -> tuple[str | None, dict[str, Any]]:
    """Whether the signature is valid, and all manifests."""
    context = c2pa.Context(c2pa.Settings.from_dict(OFFLINE))
    with c2pa.Reader(mime, io.BytesIO(data), context=context) as reader:
        return reader.get_validation_state(), json.loads(reader.json())


def actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    (found,) = (a["data"]["actions"] for a in manifest["assertions"] if a["label"] == "c2pa.actions.v2")
    return list(found)


@pytest.mark.parametrize("mime", FORMATS)
def test_a_signed_file_says_what_made_it(mime: str) -> None:
    data = Metadata(ORIGIN.packet()).put_into(encoded(mime))
    made = Signer(*credentials()).signed(data, ORIGIN)
    state, found = read(made, mime)
    manifest = found["manifests"][found["active_manifest"]]
    assert state == "Valid" and manifest["signature_info"]["issuer"] == "A studio"
    generator = manifest["claim_generator_info"][0]
    assert (generator["name"], generator["version"]) == ("synthgen", __version__)
    assert actions(manifest) == [
        {
            "action": "c2pa.created",
            "digitalSourceType": SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia",
            "softwareAgent": {"name": "stabilityai/sdxl", "version": "0123"},
        }
    ]
    assert (
        cv2.imdecode(np.frombuffer(made, np.uint8), 1).tobytes()
        == cv2.imdecode(np.frombuffer(data, np.uint8), 1).tobytes()
    )
    with pyexiv2.ImageData(made) as image, pyexiv2.ImageData(data) as before:
        assert image.read_xmp() == before.read_xmp() != {}


def test_a_changed_pixel_is_found() -> None:
    made = bytearray(Signer(*credentials()).signed(encoded("image/jpeg"), ORIGIN))
    made[-10] ^= 1
    state, found = read(bytes(made), "image/jpeg")
    assert state == "Invalid" and "dataHash.mismatch" in str(found["validation_status"])


@pytest.mark.parametrize("mime", FORMATS)
@pytest.mark.parametrize("is_changed", [False, True])
def test_the_manifest_of_a_photo_is_kept_as_the_parent(mime: str, is_changed: bool) -> None:
    """Also where the run's PNG has other pixels than the photo: then checkers say so."""
    source = signed(encoded("image/png"), "image/png")
    if is_changed:
        source = Metadata(c2pa=Metadata.of_png(source).c2pa).put_into(cv2.imencode(".png", 255 - PIXELS)[1].tobytes())
    made = Signer(*credentials()).signed(source if mime == "image/png" else encoded(mime), ORIGIN, source)
    state, found = read(made, mime)
    manifest = found["manifests"].pop(found["active_manifest"])
    (parent,) = manifest["ingredients"]
    ((label, photo),) = found["manifests"].items()
    assert state == "Valid" and parent["relationship"] == "parentOf" and parent["active_manifest"] == label
    assert [action["action"] for action in actions(manifest)] == ["c2pa.opened", "c2pa.edited"]
    assert actions(photo)[0]["digitalSourceType"].endswith("/digitalCapture")
    assert ("dataHash.mismatch" in str(parent["validation_results"]["activeManifest"]["failure"])) == is_changed


def test_a_damaged_manifest_of_a_photo_is_refused() -> None:
    source = Metadata(c2pa=b"no manifest at all").put_into(encoded("image/png"))
    with pytest.raises(ValueError, match="invalid JUMBF"):
        Signer(*credentials()).signed(source, ORIGIN, source)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1()),
     ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)],
)  # fmt: skip
def test_keys_of_all_kinds_sign(key: Any) -> None:
    made = Signer(chain(key), pem(key)).signed(encoded("image/png"), Origin())
    assert read(made, "image/png")[0] == "Valid"


@pytest.mark.parametrize(
    ("key", "said"),
    [(b"-----BEGIN nothing", "no private key in PEM"), (b"", "no private key in PEM"),
     (pem(ec.generate_private_key(ec.SECP256K1())), "another kind than C2PA takes"),
     (pem(dsa.generate_private_key(1024)), "another kind than C2PA takes"),
     (P256.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                         serialization.BestAvailableEncryption(b"x")), "has a password")],
)  # fmt: skip
def test_a_key_that_does_not_sign_is_refused(key: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Signer(credentials()[0], key)


@pytest.mark.parametrize(
    ("certificate", "said"),
    [(credentials()[0], "does not match"), (chain(P256, years=1), "not valid at time"), (b"none", "certificate"),
     (chain(P256, ExtendedKeyUsageOID.CODE_SIGNING), "certificate is invalid")],
)  # fmt: skip
def test_a_certificate_that_does_not_sign_is_refused(certificate: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Signer(certificate, pem(P256)).signed(encoded("image/png"), Origin())


def test_no_connection_is_opened() -> None:
    """c2pa's own settings would fetch the manifest that the XMP of a photo names."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa"
        packet = (
            Origin()
            .packet()
            .replace(
                b'<rdf:Description rdf:about=""',
                b'<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="%s" rdf:about=""'
                % url.encode(),
            )
        )
        store = Metadata.of_png(signed(encoded("image/png"), "image/png")).c2pa
        for carried in (Metadata(packet), Metadata(packet, c2pa=store)):
            source = carried.put_into(encoded("image/png"))
            Signer(*credentials()).signed(source, ORIGIN, source)
        with pytest.raises(TimeoutError):
            server.accept()
