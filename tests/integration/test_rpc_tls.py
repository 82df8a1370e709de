"""Mutual TLS between gateway and worker, where it is set."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from infra import errors
from tests.fixtures.rpc import UNARY, answer, calling, issue, serving, soon


async def test_tls_when_set_wants_a_certificate_of_both_sides(certificates: dict[str, Any]) -> None:
    async with serving(**certificates) as worker:
        async with calling(worker.address, **certificates) as upstream:
            await issue(upstream)
            assert await upstream.check(1)
        async with calling(worker.address) as plain:
            with pytest.raises(errors.Unavailable):
                await issue(plain, deadline=soon(1))
        nobody = grpc.ssl_channel_credentials(await asyncio.to_thread(Path(certificates["grpc_tls_ca"]).read_bytes))
        async with grpc.aio.secure_channel(worker.address, nobody) as nameless:
            call: Any = nameless.unary_unary(f"/{UNARY}")
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(b"", timeout=1)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert worker.coupons.requests[1:] == []


@pytest.mark.parametrize("names", [("grpc_tls_cert",), ("grpc_tls_cert", "grpc_tls_key", "grpc_tls_ca")])
async def test_half_set_or_missing_certificates_stop_the_start(names: tuple[str, ...]) -> None:
    with pytest.raises(errors.StartFailed, match=r"^GRPC_TLS_"):
        async with serving(answer, **dict.fromkeys(names, "missing.pem")):
            pass


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Any]:
    """A certificate for 127.0.0.1 that is its own authority, as settings."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=promo",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            cert,
        ],
        check=True,
        capture_output=True,
    )
    return {"grpc_tls_cert": str(cert), "grpc_tls_key": str(key), "grpc_tls_ca": str(cert)}
