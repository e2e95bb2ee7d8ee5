"""Compiles a catalogue in a subprocess, so that it does not slow down requests and can be killed.

The child process gets the documents but no secrets: of our environment only the variables that Python needs to start.
It returns code that our own rules have validated, marshalled: a format of one Python version, so both processes run the
same interpreter.
"""

from __future__ import annotations

import gc
import marshal
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Final

import msgspec

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_documents import CatalogueRefused, Problem
from cdv_core.domain.catalogue_index import read_index

COMPILE_MAX_SECONDS: Final = 300  # ours: ten times the time that we promise for five thousand documents
_MEMORY_MAX_BYTES: Final = 2 * 1024**3  # ours: ten thousand documents need a tenth of it
_POLL_SECONDS: Final = 0.2
_CHILD = f"import {__name__} as compiler; compiler.main()"
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


class Job(msgspec.Struct):
    index: bytes
    documents: dict[str, bytes]


class CompileResult(msgspec.Struct):
    """`codes`: marshalled code by path. `problems`: document and reason, if the catalogue is rejected."""

    codes: dict[str, bytes] = {}
    problems: list[tuple[str, str]] = []


class CompilerFailed(Exception):
    """The child process returned no result; the argument says why."""


class NoProcess(Exception):
    """No process can be started on this system; the argument says why."""


def compile_in_subprocess(
    index: bytes, documents: Mapping[str, bytes], cancelled: Callable[[], bool] = lambda: False
) -> dict[str, CodeType]:
    """Return the code of every collection's documents, by path. Blocks; polls `cancelled` and stops if it returns True.

    Raises: CatalogueRefused. CompilerFailed: it took too long or too much memory. NoProcess.
    """
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    command = [sys.executable, "-P", "-c", _CHILD]
    try:
        with tempfile.TemporaryFile() as job:  # a pipe would have to be written while the output is read
            job.write(msgspec.msgpack.encode(Job(index, dict(documents))))
            job.seek(0)
            child = subprocess.Popen(command, stdin=job, stdout=subprocess.PIPE, env=environment)  # noqa: S603 - ourselves
    except OSError as error:
        raise NoProcess(str(error)) from error
    with child:
        try:
            output = _output(child, cancelled)
        finally:
            child.kill()
    if child.returncode != 0:
        raise CompilerFailed(f"it exited with {child.returncode}")
    try:
        outcome = msgspec.msgpack.decode(output, type=CompileResult)
        codes: dict[str, Any] = {path: marshal.loads(code) for path, code in outcome.codes.items()}  # noqa: S302 - our child
    except (msgspec.DecodeError, EOFError, ValueError, TypeError) as error:
        raise CompilerFailed(f"its output cannot be read: {error}") from error
    if outcome.problems:
        raise CatalogueRefused([Problem(*it) for it in outcome.problems])
    if not all(isinstance(it, CodeType) for it in codes.values()):
        raise CompilerFailed("its output contains something other than code")
    return codes


def _output(child: subprocess.Popen[bytes], cancelled: Callable[[], bool]) -> bytes:
    for _ in range(int(COMPILE_MAX_SECONDS / _POLL_SECONDS)):
        try:
            output, _ = child.communicate(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if cancelled():
                raise CompilerFailed("the service is shutting down") from None
        else:
            return output
    raise CompilerFailed(f"it took longer than {COMPILE_MAX_SECONDS} s")


def _compiled(job: Job) -> CompileResult:
    try:
        catalogue = build_catalogue(read_index(job.index), job.documents)
    except CatalogueRefused as refused:
        return CompileResult(problems=[(it.document, it.reason) for it in refused.problems])
    index = read_index(job.index)
    paths = {
        (it.name, str(version.version)): version.document.path for it in index.collections for version in it.versions
    }
    return CompileResult(
        {
            paths[collection.name, schema.version]: marshal.dumps(schema.validator.code)
            for collection in catalogue
            for schema in collection.versions.values()
        }
    )


def _limit_resources() -> None:
    """Limit this process's memory, on systems that support it."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_MAX_BYTES, _MEMORY_MAX_BYTES))
    except (ImportError, OSError, ValueError):
        return


def main() -> None:
    """Read a job from standard input and write its result to standard output."""
    _limit_resources()
    gc.disable()  # syntax trees have no cycles, and this process is short-lived
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_compiled(job)))
