"""Certificates and keys that sign images in tests, and files that they have signed."""

import io
import json
from datetime import datetime, timedelta
from functools import cache

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

OFFLINE = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


def chain(key, usage=ExtendedKeyUsageOID.EMAIL_PROTECTION, years: int = 80) -> bytes:
    """A certificate of a key, valid from 2020, and that of the authority that signed it, as PEM."""
    authority = ec.generate_private_key(ec.SECP256R1())
    start = datetime(2020, 1, 1)

    def certificate(name: str, public, is_authority: bool) -> x509.CertificateBuilder:
        subject = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A studio"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
        issuer = [subject[0], x509.NameAttribute(NameOID.COMMON_NAME, "authority")]
        flags = (not is_authority, False, False, False, False, is_authority, is_authority, False, False)
        return (
            x509.CertificateBuilder(x509.Name(issuer), x509.Name(subject), public, x509.random_serial_number(), start)
            .not_valid_after(start + timedelta(days=365 * years))
            .add_extension(x509.BasicConstraints(is_authority, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False)
            .add_extension(x509.KeyUsage(*flags), True)
        )

    own = certificate("signer", key.public_key(), False).add_extension(x509.ExtendedKeyUsage([usage]), False)
    both = (own, certificate("authority", authority.public_key(), True))
    return b"".join(c.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) for c in both)


def pem(key) -> bytes:
    """A private key, as PEM."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@cache
def credentials() -> tuple[bytes, bytes]:
    """A chain of certificates, and the key of the first."""
    key = ec.generate_private_key(ec.SECP256R1())
    return chain(key), pem(key)


def signed(data: bytes, mime: str) -> bytes:
    """A file with a manifest, as a camera would sign it."""
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", *credentials(), None))
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    actions = {"actions": [{"action": "c2pa.created", "digitalSourceType": kind}]}
    claim = {"title": "photo", "assertions": [{"label": "c2pa.actions.v2", "data": actions}]}
    with c2pa.Builder(json.dumps(claim), c2pa.Context(c2pa.Settings.from_dict(OFFLINE), signer)) as builder:
        builder.sign(mime, io.BytesIO(data), out := io.BytesIO())
    return out.getvalue()
