"""Signs image files by C2PA, with the user's certificate.

By c2pa-python, which is in the extra `c2pa`. Nothing here opens a connection: no authority gives a time, and manifests
that a file only names by a URL are not fetched.
"""

from __future__ import annotations

import io
import json
from functools import cached_property
from typing import Any

from synthgen import __version__
from synthgen.base.xmp import SOURCE_TYPES, Origin

MIME = {b"\x89PNG": "image/png", b"\xff\xd8\xff\xe0": "image/jpeg", b"RIFF": "image/webp"}  # by the first four bytes
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_PARENT = "source"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class Signer:
    """A certificate with its private key.

    Args:
        certificate: the certificate and those of the authorities that vouch for it, in this order, as PEM.
        key: its private key, as PEM, without a password.

    Raises:
        ValueError: the key cannot be read, or is of a kind that C2PA does not take.
    """

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self._certificate, self._key, self._algorithm = certificate, key, _algorithm(key)

    @cached_property
    def _context(self) -> Any:
        import c2pa

        info = c2pa.C2paSignerInfo(self._algorithm, self._certificate, self._key, None)
        return c2pa.Context(c2pa.Settings.from_dict(_SETTINGS), c2pa.Signer.from_info(info))

    def signed(self, data: bytes, origin: Origin, source: bytes = b"") -> bytes:
        """An image file with a signed manifest that says where it comes from. Two signatures never have the same bytes.

        Args:
            data: a PNG, JPEG or WebP file. Its own manifest, if it has one, gives way.
            source: a PNG with a manifest of its own, from which the file was made: the manifest is kept as its parent.

        Raises:
            ValueError: the certificate or the key does not fit, or the manifest of the source is damaged.
        """
        import c2pa

        try:
            with c2pa.Builder(json.dumps(_claim(origin, bool(source))), self._context) as builder:
                if source:
                    parent = {"title": "source", "relationship": "parentOf", "label": _PARENT}
                    builder.add_ingredient(parent, "image/png", io.BytesIO(source))
                builder.sign(MIME[data[:4]], io.BytesIO(data), signed := io.BytesIO())
        except c2pa.C2paError as error:
            raise ValueError(str(error)) from error
        return signed.getvalue()


def _claim(origin: Origin, has_parent: bool) -> dict[str, Any]:
    """The manifest's definition. C2PA Technical Specification 2.2, 18.15: its first action creates or opens."""
    made: dict[str, Any] = {"digitalSourceType": SOURCE_TYPES + origin.digital_source_type}
    if origin.system:
        made["softwareAgent"] = {"name": origin.system, **({"version": v} if (v := origin.version) else {})}
    actions = [{"action": "c2pa.created", **made}]
    if has_parent:
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_PARENT]}}
        actions = [opened, {"action": "c2pa.edited", **made}]
    return {
        "claim_generator_info": [{"name": "synthgen", "version": __version__}],
        "title": "image",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _algorithm(key: bytes) -> str:
    """The algorithm of C2PA (Technical Specification 2.2, 13.2.1) for a private key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(key, None)
    except TypeError as error:
        raise ValueError("it has a password; takes a key without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it is no private key in PEM") from error
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.name in _CURVES:
        return _CURVES[loaded.curve.name]
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError("it is of another kind than C2PA takes: ECDSA P-256, P-384 or P-521, Ed25519, or RSA")
