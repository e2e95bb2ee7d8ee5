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
from cdv_adapters.settings import Settings, SettingsRefused, env_file_variables, read_settings
from cdv_adapters.settings_listing import markdown_table, masked, unknown_variables
from cdv_core.domain.identifiers import Did
from cdv_core.errors import CdvError, InvalidField, Unavailable
from cdv_http.commands import backup, doctor, events, schemas
from cdv_http.logs import set_up_logs

# Exit codes: 1 the command failed, 2 the command line or the settings are wrong.
_FAILED, _USAGE_ERROR = 1, 2
_TTL_MAX_SECONDS = 100 * 365 * 86400  # ours: services reject a token that expires after the year 9999
_WRITE_FAILED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_CA_SETTINGS = {
    "database": "sslrootcert in CDV_DB_DSN",
    "object_store": "CDV_S3_CA",
    "events": "CDV_NATS_CA",
    "issuer": "CDV_JWKS_CA",
    "schemas": "SSL_CERT_FILE",
    "rate_limits": "ssl_ca_certs in CDV_RATE_LIMIT_STORAGE",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    code = 0
    try:
        try:
            code = _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, because an error during interpreter shutdown cannot be handled
    except BrokenPipeError:
        _discard_output()  # the reader of our output has closed the pipe
    except OSError as error:
        if error.errno not in _WRITE_FAILED or error.filename is not None:
            raise
        _discard_output()
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
        return _USAGE_ERROR
    except CdvError as error:
        print(_line(error), file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 130
    return code


def _discard_output() -> None:
    """Discard unwritten output: Python would write it again at interpreter shutdown, and report an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(error: CdvError) -> str:
    return f"cdv: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())  # a driver's message has several


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
            # The folder through which workers share metrics. prometheus_client reads this variable only when it is
            # imported, so the server is imported after it is set.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cdv-metrics-", dir=_shared_memory()))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from cdv_http.server import serve

        return serve(settings)


def _shared_memory() -> str | None:
    """Return a folder in memory, if there is one: writing to a mapped file on a full disk raises SIGBUS."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - what is made in it has a random name


def _token(arguments: argparse.Namespace) -> int:
    settings = _settings()
    if settings.env == "prod":
        print("cdv: development tokens are not issued when CDV_ENV is prod", file=sys.stderr)
        return _USAGE_ERROR
    try:
        did = Did.parse(arguments.did, "--did")
    except InvalidField as error:
        print(_line(error), file=sys.stderr)
        return _USAGE_ERROR
    if not 1 <= arguments.ttl <= _TTL_MAX_SECONDS:
        print(f"cdv: --ttl: must be between 1 and {_TTL_MAX_SECONDS} seconds", file=sys.stderr)
        return _USAGE_ERROR
    if settings.jwt_issuer is not None and arguments.issuer_key is None:
        note = "cdv: CDV_JWT_ISSUER is set: only tokens of that issuer are accepted. Pass its key with --issuer-key"
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
    return asyncio.run(_check_dependencies(settings))


async def _check_dependencies(settings: Settings) -> int:
    """Try everything that `serve` needs, print the failures, and return the exit code."""
    from cdv_http.rate_limits import SharedCounters

    errors: list[CdvError] = []
    failed = False
    async with AsyncExitStack() as stack:
        dependencies: list[Dependency] = []
        with _collecting(errors):
            service = await stack.enter_async_context(open_service(settings, owns_database=False))
            dependencies = service.dependencies
            if service.rate_limit_storage is not None:
                counters = SharedCounters(service.rate_limit_storage)
                stack.push_async_callback(counters.close)
                dependencies.append(Dependency("rate_limits", critical=False, check=counters.check))
        if not dependencies:
            with _collecting(errors):
                dependencies = await stack.enter_async_context(open_dependencies_except_database(settings))
            if dependencies:  # so it was the database
                print(f"FAIL database (critical): {_one_line(errors.pop())}")
                failed = True
        for dependency in dependencies:
            problem = await _problem(dependency, settings)
            kind = "critical" if dependency.critical else "not critical"
            print(f"{'FAIL' if problem else 'ok  '} {dependency.name} ({kind}){': ' + problem if problem else ''}")
            failed |= problem is not None
    for line in dict.fromkeys(map(_line, errors)):
        print(line, file=sys.stderr)
    return _FAILED if failed or errors else 0


@contextmanager
def _collecting(errors: list[CdvError]) -> Iterator[None]:
    """Add the block's error to `errors`, and continue."""
    try:
        yield
    except CdvError as error:
        errors.append(error)


async def _problem(dependency: Dependency, settings: Settings) -> str | None:
    try:
        await dependency.check()
    except CdvError as error:
        problem = _one_line(error.__cause__ or error)
        if "certificate verify failed" in problem.lower().replace("_", " "):
            return f"{problem} (set the trusted CA with {_CA_SETTINGS[dependency.name]})"
        cause = error.dependency if isinstance(error, Unavailable) else dependency.name
        return f"{problem}; {doctor.remedy(settings, cause)}"
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
    """Return the settings; warn if the data dir has no vault yet, because it may not be the intended one."""
    settings = _settings()
    if settings.db_dsn is None and not has_vault(settings):
        _warn(settings, f"there is no vault in {settings.data_dir}; set CDV_DATA_DIR if yours is elsewhere")
    return settings


def _settings(**overrides: object) -> Settings:
    settings = read_settings(**overrides)
    set_up_logs(settings)
    for name in unknown_variables({*os.environ, *(env_file_variables() if settings.is_dev else ())}):
        _warn(settings, f"{name} is not a setting and is ignored")
    return settings


def _warn(settings: Settings, problem: str) -> None:
    """Print the warning in dev; elsewhere log it, because a service's standard error is read as JSON lines."""
    if settings.is_dev:
        print(f"cdv: warning: {problem}", file=sys.stderr)
    else:
        logger.warning(problem)
