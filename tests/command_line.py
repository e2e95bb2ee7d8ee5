"""The `cdv` command, run in this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdv_http.cli import main


class Cli:
    """Runs a command under the settings given and no others, in a folder of its own."""

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
                main([str(it) for it in arguments])
        out, err = self._capfd.readouterr()
        return int(exited.value.code or 0), out, err
