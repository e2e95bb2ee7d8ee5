"""The `cdv-conformance` command."""

from __future__ import annotations

import argparse
import random
import ssl
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from conformance.http import html_report, profiles, report, runner
from conformance.http.catalogue import Catalogue
from conformance.http.event_log import NoEvents, try_connection
from conformance.http.laws import LAWS, TESTED_TOO
from conformance.http.plan import Plan
from conformance.http.requirements import GROUPS, Undecided, as_markdown, requirements
from conformance.http.servers import Issuer, serving
from conformance.http.tokens import CommandTokens, Key, KeyTokens, NoTokens, TokenSource
from conformance.http.transport import BoundedTransport
from conformance.http.vault import UNAVAILABLE_STATUSES
from conformance.http.verdicts import INCONCLUSIVE, USAGE, exit_code, verdicts_of

LOCAL_ISSUER = "urn:cdv:local-issuer"  # the issuer that a development vault trusts
_HEALTH_SECONDS = 10
_TOKEN_PROBE_PATH = "/v1/media/01ARZ3NDEKTSV4RRFFQ69G5FAV/meta"  # needs a token; no such asset exists
SKEW_NOTICED_SECONDS = 3  # smaller differences are within the precision of a Date header, one second


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its result."""
    arguments = _parser().parse_args(argv)
    code: int = arguments.run(arguments)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cdv-conformance", description="Test a running CDV against the contract.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser("requirements", help="print every requirement, as Markdown")
    command.set_defaults(run=lambda _: print(as_markdown(), end="") or 0)

    command = commands.add_parser(
        "run",
        help="test a target",
        epilog="Exit code: 0 the target conforms; 1 it does not; 2 the command line is wrong; 3 undecided, because the "
        "target did not respond or the run was interrupted.",
    )
    command.add_argument("--url", type=_target_url, required=True, help="base URL of the target")
    tokens = command.add_argument_group("source of tokens (choose one)").add_mutually_exclusive_group(required=True)
    tokens.add_argument(
        "--issuer-key",
        type=Path,
        metavar="FILE",
        help="private Ed25519 key, JWK or PEM, of an issuer that the target trusts",
    )
    tokens.add_argument(
        "--token-command", metavar="COMMAND", help="command that prints a token for the DID which replaces {did}"
    )
    tokens.add_argument(
        "--own-issuer",
        type=_port,
        metavar="PORT",
        help="serve an issuer on this loopback port, to which the target must be pointed (0: any free port)",
    )
    command.add_argument(
        "--issuer", help=f"claim iss of the tokens (default: {LOCAL_ISSUER}; with --own-issuer its URL)"
    )
    command.add_argument("--audience", default="cdv", help="claim aud of the tokens (default: cdv)")
    means = command.add_argument_group("options that make more requirements testable")
    means.add_argument("--nats", default="", metavar="URL", help="NATS server on which the target publishes its events")
    means.add_argument(
        "--catalogue",
        type=_port,
        metavar="PORT",
        help="serve a schema catalogue on this loopback port, to which the target must be pointed (0: any free port)",
    )
    means.add_argument("--cors-origin", default="", metavar="ORIGIN", help="an origin that the target allows")
    means.add_argument(
        "--max-body-bytes",
        type=int,
        default=1024 * 1024,
        metavar="N",
        help="the target's limit of a request body (default: 1 MiB)",
    )
    means.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="PEM certificate of the authority that issued the target's certificate",
    )
    means.add_argument(
        "--rejects-deprecated",
        action="store_true",
        help="the target refuses deprecated versions (it runs with CDV_REJECT_DEPRECATED_SCHEMAS=true)",
    )
    how = command.add_argument_group("extent of the run")
    how.add_argument(
        "--profile",
        choices=profiles.PROFILES,
        default="default",
        help="how many examples to try (default: default)",
    )
    how.add_argument("--seed", type=int, help="seed of an earlier run, to repeat its examples")
    how.add_argument(
        "--only",
        type=_requirement_prefix,
        action="append",
        default=[],
        metavar="ID",
        help="test only requirements whose ids begin with this, such as MEDIA; repeatable",
    )
    how.add_argument(
        "--min",
        type=float,
        default=100,
        metavar="PERCENT",
        help="score of MUST needed for exit code 0 (default: 100)",
    )
    how.add_argument(
        "--wait",
        type=float,
        default=60,
        metavar="SECONDS",
        help="how long to wait for the target to start (default: 60)",
    )
    for kind in ("junit", "json", "html"):
        command.add_argument(
            f"--{kind}", type=Path, metavar="FILE", help=f"also write the report to this file, as {kind}"
        )
    command.set_defaults(run=_run)
    return parser


def _target_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http:// or https:// URL with a host")
    return text


def _requirement_prefix(text: str) -> str:
    selected = {name for name in requirements() if name.startswith(text)}
    if not selected:
        named = [*GROUPS, *requirements()]
        near = (
            get_close_matches(text.upper(), named, n=3) or [it for it in named if it.startswith(text.upper()[:2])][:3]
        )
        raise argparse.ArgumentTypeError(
            f"no requirement id begins with {text!r}; similar: {', '.join(near or GROUPS)}"
        )
    if selected <= {*LAWS} - TESTED_TOO:
        raise argparse.ArgumentTypeError(
            f"{text} is checked on every response of any run and has no test of its own: run without --only {text}"
        )
    return text


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{number} is not a port (0 to 65535)")
    return number


def _check_report_paths(arguments: argparse.Namespace) -> None:
    """Check before the run that its reports can be written. Raises OSError."""
    for path in (arguments.junit, arguments.json, arguments.html):
        if path is not None:
            existed = path.exists()
            path.open("ab").close()
            if not existed:
                path.unlink()  # a run that ends early leaves no empty report


def _run(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        try:
            _check_report_paths(arguments)
            plan = _plan(arguments, stack)
        except (NoTokens, OSError) as error:
            return _usage_error(str(error))
        print(f"testing {plan.url} with profile {plan.profile}, seed {plan.seed}", file=sys.stderr)
        try:
            _probe_target(plan, arguments.wait)
            if plan.nats_url:
                try_connection(plan.nats_url)
        except (httpx.HTTPError, Undecided) as error:
            print(
                f"cdv-conformance: undecided: {plan.url} does not answer, so nothing was tested: {error}. "
                "Check --url and that the target runs; --wait says how long to wait for it.",
                file=sys.stderr,
            )
            return INCONCLUSIVE
        except (NoTokens, NoEvents) as error:
            return _usage_error(str(error))
        began = time.monotonic()
        verdicts = verdicts_of(runner.run(plan, runner.Progress(live=sys.stderr.isatty())))
        plan.seconds = round(time.monotonic() - began, 1)
    print(report.as_text(plan, verdicts))
    for path, write in (
        (arguments.junit, report.write_junit),
        (arguments.json, report.write_json),
        (arguments.html, html_report.write_html),
    ):
        if path is not None:
            write(path, plan, verdicts)
    return exit_code(verdicts, arguments.min)


def _plan(arguments: argparse.Namespace, stack: ExitStack) -> Plan:
    """Return the plan. Its issuer and catalogue are served until the stack closes.

    Raises: NoTokens. OSError: a port is in use.
    """
    settings = []
    issuer = None
    tokens: TokenSource
    if arguments.own_issuer is not None:
        issuer = Issuer()
        url = stack.enter_context(serving(issuer, arguments.own_issuer))
        tokens = KeyTokens(Key.new(), issuer=arguments.issuer or url, audience=arguments.audience)
        issuer.publish(tokens.key)
        settings += [f"CDV_JWT_ISSUER={tokens.issuer}", f"CDV_JWT_AUDIENCE={tokens.audience}"]
        settings += [f"CDV_JWKS_URL={url}{Issuer.PATH}"]
    elif arguments.issuer_key is not None:
        key = Key.read(arguments.issuer_key)
        tokens = KeyTokens(key, issuer=arguments.issuer or LOCAL_ISSUER, audience=arguments.audience)
    else:
        tokens = CommandTokens(arguments.token_command)
    catalogue = None
    if arguments.catalogue is not None:
        catalogue = Catalogue()
        settings.append(f"CDV_SPECS_URL={stack.enter_context(serving(catalogue, arguments.catalogue))}")
    if settings:
        print(f"now start the target with: {' '.join(settings)}", file=sys.stderr)
    seed = random.randrange(2**31) if arguments.seed is None else arguments.seed
    return Plan(
        url=arguments.url.rstrip("/"),
        tokens=tokens,
        issuer=issuer,
        catalogue=catalogue,
        nats_url=arguments.nats,
        cors_origin=arguments.cors_origin,
        max_body_bytes=arguments.max_body_bytes,
        rejects_deprecated=arguments.rejects_deprecated,
        profile=arguments.profile,
        seed=seed,
        only=tuple(arguments.only),
        trust=_trust(arguments.ca),
    )


def _trust(file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authority of the file, or else those of this machine. Raises OSError."""
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError as error:
        raise OSError(f"--ca {file}: the file has no certificate in PEM") from error


def _probe_target(plan: Plan, wait_seconds: float) -> None:
    """Wait for the target, measure the skew of its clock, and try a token.

    Raises: httpx.HTTPError, Undecided: the target does not respond in time. NoTokens.
    """
    deadline = time.monotonic() + wait_seconds
    transport = BoundedTransport(_HEALTH_SECONDS, verify=plan.trust)
    with httpx.Client(transport=transport, timeout=_HEALTH_SECONDS, trust_env=False) as client:
        while True:
            try:
                response = client.get(f"{plan.url}/healthz")
                if not response.is_server_error:
                    break
                if time.monotonic() > deadline:
                    if response.status_code in UNAVAILABLE_STATUSES:
                        raise Undecided(f"status {response.status_code} from /healthz")
                    break  # the run judges what /healthz answers
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)
        ahead = _ahead_seconds(response)
        if isinstance(plan.tokens, KeyTokens) and abs(ahead) > SKEW_NOTICED_SECONDS:
            plan.tokens.server_ahead_seconds = ahead
            print(
                f"the target's clock differs from ours by {ahead:+.0f} s; tokens are issued by the target's clock",
                file=sys.stderr,
            )
        token = plan.tokens.token("did:example:conformance")
        with suppress(httpx.HTTPError, Undecided):  # the run judges it
            probe = client.get(f"{plan.url}{_TOKEN_PROBE_PATH}", headers={"Authorization": f"Bearer {token}"})
            if probe.status_code == httpx.codes.UNAUTHORIZED:
                print(
                    "the target refuses our tokens with 401: tests that need a token will fail. Check that the target "
                    "trusts their issuer (--issuer) and key, and expects their audience (--audience).",
                    file=sys.stderr,
                )


def _ahead_seconds(response: httpx.Response) -> float:
    """Return how far the target's clock is ahead of ours, by the response's Date; 0 if that is missing or invalid."""
    try:
        return parsedate_to_datetime(response.headers.get("date", "")).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0


def _usage_error(message: str) -> int:
    print(f"cdv-conformance: {message}", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    main()
