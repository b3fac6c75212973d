"""Certificates for tests of TLS."""

from datetime import UTC, datetime, timedelta
from pathlib import Path


def authority_of(folder: Path) -> tuple[Path, Path, Path]:
    """An authority that nobody trusts by itself, a certificate of 127.0.0.1 that it has signed, and the key of that."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.now(UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "server")}
    names = {name: x509.Name.from_rfc4514_string(f"CN={name}") for name in keys}
    for name, key in keys.items():
        certificate = (
            x509.CertificateBuilder(names["authority"], names[name], key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=name == "authority", path_length=None), True)
            .sign(keys["authority"], hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = keys["server"].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "authority.pem", folder / "server.pem", folder / "key.pem"
