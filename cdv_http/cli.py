"""The `cdv` command."""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from loguru import logger

from cdv_adapters.bootstrap import migrate as migrate_database
from cdv_adapters.bootstrap import open_dependencies_except_database, open_records, open_service
from cdv_adapters.container import has_vault, local_issuer
from cdv_adapters.service import Dependency
from cdv_adapters.settings import Settings, SettingsRefused, read_settings
from cdv_adapters.settings_listing import markdown_table, masked, unknown_variables
from cdv_core.domain.identifiers import Did
from cdv_core.errors import CdvError, InvalidField, Unavailable
from cdv_http.commands import backup, doctor, events, schemas
from cdv_http.logs import set_up_logs

# What `cdv` exits with: 1 the thing asked for failed, 2 the command or the settings are wrong.
_FAILED, _MISUSED = 1, 2
_TTL_MAX_SECONDS = 100 * 365 * 86400  # ours: what expires beyond the calendar's end, no service takes
_CANNOT_BE_WRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_TRUST = {
    "database": "sslrootcert in CDV_DB_DSN",
    "object_store": "CDV_S3_CA",
    "events": "CDV_NATS_CA",
    "issuer": "CDV_JWKS_CA",
    "schemas": "SSL_CERT_FILE",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit by its result."""
    code = 0
    try:
        try:
            code = _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here and not while Python closes down, when it can only complain
    except BrokenPipeError:
        _forget_output()  # the reader of our output has seen enough
    except OSError as error:
        if error.errno not in _CANNOT_BE_WRITTEN or error.filename is not None:
            raise
        _forget_output()
        print(f"cdv: cannot write the output: {error.strerror}; make room, or send it elsewhere", file=sys.stderr)
        code = code or _FAILED
    sys.exit(code)


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except SettingsRefused as refused:
        for problem in refused.problems:
            print(f"cdv: {problem}", file=sys.stderr)
        return _MISUSED
    except CdvError as error:
        print(_line(error), file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 130
    return code


def _forget_output() -> None:
    """Let go what could not be written: Python would try again while it closes down, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(error: CdvError) -> str:
    """Return what to print: one line, whatever a driver or an operating system put into it."""
    return f"cdv: {' '.join(str(error).split())}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cdv", description="Keep creators' published records and media.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="serve the vault over HTTP")
    command.add_argument("--host", help="address to listen on (CDV_HOST)")
    command.add_argument("--port", type=int, help="port to listen on (CDV_PORT)")
    command.add_argument("--workers", type=int, help="worker processes (CDV_WORKERS)")
    command.set_defaults(run=_serve)

    command = commands.add_parser("token", help="print a development token from the built-in issuer")
    command.add_argument("--did", required=True, help="the DID that the token speaks for")
    command.add_argument(
        "--ttl", type=int, default=3600, metavar="SECONDS", help="lifetime of the token (default 3600)"
    )
    command.add_argument("--issuer-key", type=Path, metavar="FILE", help="sign with this Ed25519 key (JWK or PEM)")
    command.set_defaults(run=_token)

    command = commands.add_parser("migrate", help="bring the database to the schema version of this code")
    command.set_defaults(run=_migrate)

    command = commands.add_parser("check", help="check the settings and try each dependency, without serving")
    command.set_defaults(run=_check)

    command = commands.add_parser("config", help="print the effective settings, secrets masked")
    command.add_argument(
        "--markdown", action="store_true", help="print a table of all settings, with defaults and meanings"
    )
    command.set_defaults(run=_config)

    command = commands.add_parser("openapi", help="print the OpenAPI document")
    command.set_defaults(run=_openapi)

    schemas.add_parser(commands, lambda: _settings().specs_url, lambda: open_records(_read_settings()))
    events.add_parser(commands, _open_events)
    backup.add_parsers(commands, _settings)
    doctor.add_parser(commands, _settings)
    return parser


@asynccontextmanager
async def _open_events() -> AsyncGenerator[events.EventsAccess, None]:
    async with open_service(_read_settings(), owns_database=False) as service:
        yield events.EventsAccess(service.outbox, service.clock, service.relay)


def _serve(arguments: argparse.Namespace) -> int:
    settings = _settings(host=arguments.host, port=arguments.port, workers=arguments.workers)
    with ExitStack() as stack:
        if settings.workers > 1:
            # Where the workers' counts are added up. prometheus_client looks at this when it is imported and never
            # again: so the server is imported only now.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cdv-metrics-", dir=_shared_memory()))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from cdv_http.server import serve

        return serve(settings)


def _shared_memory() -> str | None:
    """Return a folder in memory, if there is one: to count in a mapped file on a disk that is full is a bus error."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - what is made in it has a random name


def _token(arguments: argparse.Namespace) -> int:
    settings = _settings()
    if settings.env == "prod":
        print("cdv: development tokens are refused when CDV_ENV is prod", file=sys.stderr)
        return _MISUSED
    try:
        did = Did.parse(arguments.did, "--did")
    except InvalidField as error:
        print(_line(error), file=sys.stderr)
        return _MISUSED
    if not 1 <= arguments.ttl <= _TTL_MAX_SECONDS:
        print(f"cdv: --ttl: between 1 and {_TTL_MAX_SECONDS} seconds", file=sys.stderr)
        return _MISUSED
    if settings.jwt_issuer is not None and arguments.issuer_key is None:
        note = (
            "cdv: CDV_JWT_ISSUER is set, so its tokens alone are taken: this one is not, unless --issuer-key is its key"
        )
        print(note, file=sys.stderr)
    issuer = local_issuer(settings, arguments.issuer_key)
    print(issuer.issue(did, arguments.ttl, datetime.now(UTC)))
    return 0


def _migrate(_: argparse.Namespace) -> int:
    applied = asyncio.run(migrate_database(_settings()))
    print("\n".join(f"applied {name}" for name in applied) or "nothing to do: the database is up to date")
    return 0


def _check(_: argparse.Namespace) -> int:
    settings = _settings()
    print("ok   settings")
    return asyncio.run(_try_all(settings))


async def _try_all(settings: Settings) -> int:
    """Try all that `serve` needs, say what fails, and return the exit code."""
    from cdv_http.rate_limits import SharedCounters

    problems: list[str] = []
    failed = False
    async with AsyncExitStack() as stack:
        dependencies: list[Dependency] = []
        with _noting(problems):
            service = await stack.enter_async_context(open_service(settings, owns_database=False))
            dependencies = service.dependencies
            if service.rate_limit_storage is not None:
                SharedCounters(service.rate_limit_storage)
        if not dependencies:
            with _noting(problems):
                dependencies = await stack.enter_async_context(open_dependencies_except_database(settings))
        for dependency in dependencies:
            problem = await _problem(dependency, settings)
            kind = "critical" if dependency.critical else "not critical"
            print(f"{'FAIL' if problem else 'ok  '} {dependency.name} ({kind}){': ' + problem if problem else ''}")
            failed |= problem is not None
    return _FAILED if failed or problems else 0


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Print what cannot be had, and go on; say nothing twice."""
    try:
        yield
    except CdvError as error:
        problem = _line(error)
        if problem not in problems:
            problems.append(problem)
            print(problem, file=sys.stderr)


async def _problem(dependency: Dependency, settings: Settings) -> str | None:
    try:
        await dependency.check()
    except CdvError as error:
        problem = " ".join(str(error.__cause__ or error).split())
        if "certificate verify failed" in problem.lower().replace("_", " "):
            return f"{problem} (whom to trust is said by {_TRUST[dependency.name]})"
        blamed = error.dependency if isinstance(error, Unavailable) else dependency.name.replace("_", " ")
        return f"{problem}; {doctor.remedy(settings, blamed)}"
    return None


def _config(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(markdown_table(), end="")
        return 0
    for name, value in masked(_settings()).items():
        print(f"{name}={value}")
    return 0


def _openapi(_: argparse.Namespace) -> int:
    from cdv_http.openapi import openapi_document

    print(msgspec.json.format(json.dumps(openapi_document()), indent=2))
    return 0


def _read_settings() -> Settings:
    """Return the settings of a vault that is to be read: in another folder than meant, there would be nothing in it."""
    settings = _settings()
    if settings.db_dsn is None and not has_vault(settings):
        _warn(settings, f"no vault was in {settings.data_dir}; CDV_DATA_DIR names another")
    return settings


def _settings(**overrides: object) -> Settings:
    settings = read_settings(**overrides)
    set_up_logs(settings)
    for name in unknown_variables(os.environ):
        _warn(settings, f"{name} is no setting and does nothing")
    return settings


def _warn(settings: Settings, problem: str) -> None:
    """Print it in dev; elsewhere log it, for what reads a service's standard error expects lines of JSON."""
    if settings.is_dev:
        print(f"cdv: warning: {problem}", file=sys.stderr)
    else:
        logger.warning(problem)
