"""The `cdv` command, run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdv_http.cli import main
from tests.http.running import environment
from tests.leaks import printed
from tests.servers.process import free_port

DID = "did:example:ada"


class Cli:
    """Runs a command with the given settings and no others, in an empty folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd
        for name in set(os.environ) | {"PORT"}:
            if name.startswith("CDV_") or name == "PORT":
                monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(folder)

    def __call__(self, *arguments: object, data_dir: Path, **settings: str) -> tuple[int, str, str]:
        """Return the exit code, and what went to standard output and to standard error."""
        self._capfd.readouterr()
        with self._monkeypatch.context() as context:
            for name, value in {**settings, "CDV_DATA_DIR": str(data_dir)}.items():
                context.setenv(name, value)
            with pytest.raises(SystemExit) as exited:
                main([str(argument) for argument in arguments])
        out, err = self._capfd.readouterr()
        return int(exited.value.code or 0), out, err


@dataclass
class Result:
    code: int
    out: str
    err: str


Cdv = Callable[..., Result]


@pytest.fixture
def cdv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cdv:
    """Run a command in this process, in an empty folder and an environment that sets nothing else."""
    for name in environment(tmp_path):
        if name.startswith("CDV_"):
            monkeypatch.delenv(name, raising=False)
    for name in ("CDV_ENV", "CDV_PORT", "CDV_HOST", "CDV_DATA_DIR", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **settings: str) -> Result:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        for name in settings:
            monkeypatch.delenv(name)
        out, err = capfd.readouterr()
        return Result(int(exited.value.code or 0), out, printed(err))

    return run


def one_line(result: Result, code: int, *words: str) -> None:
    """Check that the command failed with one clear line on standard error and nothing else."""
    assert result.code == code
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("cdv: ")
    for word in words:
        assert word in result.err
    assert "Traceback" not in result.err


@pytest.fixture
def port() -> str:
    return str(free_port())
