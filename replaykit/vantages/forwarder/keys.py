"""Keys for tunnels: an authority of one's own, a certificate for the server and one for each client.

Everything is ECDSA on P-256; files are PEM, and keys 0600.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from replaykit.atomic_files import write_whole
from replaykit.errors import UsageError
from replaykit.extras import needs

DAYS = 3650
Issuer = tuple[Any, Any]
"""A certificate and its key."""


def make(folder: Path, servers: list[str], clients: list[str]) -> list[Path]:
    """Writes ca.pem and ca.key unless they are there, server.pem and .key, NAME.pem and .key.

    Raises UsageError.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise needs("keys need cryptography", "tls") from None
    for name in (*(["server"] if servers else []), *clients):
        if (folder / f"{name}.key").exists():
            raise UsageError(
                f"{folder / name}.key: there is such a key already; move it away to make a new one"
            )
    authority, written = _authority(folder)
    for name, names in (("server", servers), *((c, []) for c in clients)):
        if name == "server" and not names:
            continue
        key = ec.generate_private_key(ec.SECP256R1())
        written += _save(folder, name, _signed(name, key, authority, names), key)
    return written


def _authority(folder: Path) -> tuple[Issuer, list[Path]]:
    """The one that is there, or a new one and its files. Raises UsageError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    place = folder / "ca.pem"
    if not place.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed("replaykit tunnels", key, None, [])
        return (certificate, key), _save(folder, "ca", certificate, key)
    try:
        certificate = x509.load_pem_x509_certificate(place.read_bytes())
        return (certificate, serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)), []
    except (OSError, ValueError) as error:
        raise UsageError(f"{place}: cannot be used: {error}") from None


def _signed(name: str, key: Any, issuer: Issuer | None, names: list[str]) -> Any:
    """A certificate for these hosts; without an issuer that of an authority, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(n) for n in names]), False)
    return builder.sign(key if issuer is None else issuer[1], hashes.SHA256())


def _host(name: str) -> Any:
    """A host as certificates have it: by address or by name."""
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _save(folder: Path, name: str, certificate: Any, key: Any) -> list[Path]:
    from cryptography.hazmat.primitives import serialization

    files = [folder / f"{name}.pem", folder / f"{name}.key"]
    write_whole(files[0], certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    write_whole(
        files[1], key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return files
