"""Our secret sources against the contract."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import stamina

from cdv_adapters.secrets.aws_kms import KmsSecrets, encryption_context
from cdv_adapters.secrets.file import FileSecrets
from cdv_adapters.secrets.vault import VaultSecrets
from conformance.ports.secrets import Rig, SecretSourceContract
from tests.adapters.kms import KmsServer
from tests.fakes.s3 import Answer
from tests.fakes.s3 import ScriptedS3 as ScriptedServer
from tests.fakes.secrets import FakeSecrets
from tests.fakes.vault import FakeVault
from tests.servers import FaultProxy


class TestFile(SecretSourceContract):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        directory, elsewhere, numbers = tmp_path / "secrets", tmp_path / "elsewhere", count()
        directory.mkdir()

        def put(secret: str) -> str:
            path = directory / str(next(numbers))
            path.write_text(secret + "\n", encoding="utf-8")
            return f"file:{path}"

        def replace(reference: str, secret: str) -> None:
            Path(reference.removeprefix("file:")).write_text(secret, encoding="utf-8")

        def away(gone: bool) -> None:
            here, there = (directory, elsewhere) if gone else (elsewhere, directory)
            here.rename(there)

        malformed = ("file:", "file:relative", "file:./x", "file:/a\0b", "/absolute")
        return Rig(FileSecrets(), put, away, f"file:{directory}/absent", replace, malformed)


class TestVault(SecretSourceContract):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        vault, numbers = FakeVault(), count()

        def put(secret: str) -> str:
            path = f"cdv/{next(numbers)}"
            vault.secrets["", "kv", path] = {"password": secret, "other": "x"}
            return f"vault:kv/{path}#password"

        def replace(reference: str, secret: str) -> None:
            path = reference.removeprefix("vault:kv/").removesuffix("#password")
            vault.secrets["", "kv", path] = {"password": secret}

        def away(gone: bool) -> None:
            vault.override = Answer(503, b'{"errors":["Vault is sealed"]}') if gone else None

        malformed = (
            *(
                "vault:",
                "vault:kv",
                "vault:kv/x",
                "vault:kv#x",
                "vault:/x#y",
                "vault:kv/#y",
                "vault:kv/x#",
                "vault:kv/x#y#z",
            ),
            *(
                "vault:kv/../sys/x#y",
                "vault:kv/./x#y",
                "vault:kv//x#y",
                "vault:../x#y",
                "vault:kv/x y#z",
                "vault:kv/x#y\n",
            ),
        )
        with ScriptedServer(vault.answer) as server, stamina.set_testing(True, attempts=2):
            source = VaultSecrets({"VAULT_ADDR": server.url, "VAULT_TOKEN": "hvs.root"})
            yield Rig(source, put, away, "vault:kv/absent#password", replace, malformed)


@pytest.fixture(scope="module")
def kms() -> Iterator[KmsServer]:
    with KmsServer() as server:
        yield server


class TestKms(SecretSourceContract):
    @pytest.fixture
    def rig(self, kms: KmsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
        with FaultProxy(kms.url) as proxy:
            kms.point_to(monkeypatch, proxy.url)
            yield Rig(
                KmsSecrets(encryption_context("staging"), attempts=1),
                lambda secret: kms.encrypted(secret, "staging"),
                lambda gone: proxy.cut() if gone else proxy.heal(),
                kms.encrypted("of another environment", "prod"),
                None,
                ("awskms:", "awskms:AAAA BBBB", "awskms:AAA", "awskms:é"),
            )


class TestFake(SecretSourceContract):
    @pytest.fixture
    def rig(self) -> Rig:
        fake = FakeSecrets()

        def put(secret: str) -> str:
            reference = f"fake:{len(fake.values)}"
            fake.values[reference] = secret
            return reference

        def away(gone: bool) -> None:
            fake.down = gone

        return Rig(fake, put, away, "fake:absent", fake.values.__setitem__, foreign=())
