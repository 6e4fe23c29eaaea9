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


def make(folder: Path, servers: list[str], clients: list[str]) -> list[Path]:
    """Writes ca.pem and ca.key unless they are there, server.pem and .key, NAME.pem and .key.

    Raises UsageError.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise needs("keys need cryptography", "tls") from None
    for name in (*(["server"] if servers else []), *clients):
        if (folder / f"{name}.key").exists():
            raise UsageError(
                f"{folder / name}.key: there is such a key already; move it away to make a new one"
            )
    now = datetime.datetime.now(datetime.UTC)

    def signed(name: str, key: Any, issuer: tuple[Any, Any] | None, names: list[str], ca: bool) -> Any:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer[0].subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=DAYS))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([general(n) for n in names]), False)
        return builder.sign(key if issuer is None else issuer[1], hashes.SHA256())

    def general(name: str) -> Any:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    def saved(name: str, certificate: Any, key: Any) -> list[Path]:
        files = [folder / f"{name}.pem", folder / f"{name}.key"]
        write_whole(files[0], certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        write_whole(
            files[1], key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        )
        return files

    written: list[Path] = []
    place = folder / "ca.pem"
    if place.exists():
        try:
            authority = x509.load_pem_x509_certificate(place.read_bytes())
            secret: Any = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except (OSError, ValueError) as error:
            raise UsageError(f"{place}: cannot be used: {error}") from None
    else:
        secret = ec.generate_private_key(ec.SECP256R1())
        authority = signed("replaykit tunnels", secret, None, [], True)
        written += saved("ca", authority, secret)
    for name, names in (("server", servers), *((c, []) for c in clients)):
        if name == "server" and not names:
            continue
        key = ec.generate_private_key(ec.SECP256R1())
        written += saved(name, signed(name, key, (authority, secret), names, False), key)
    return written
