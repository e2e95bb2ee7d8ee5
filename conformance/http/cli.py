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

from conformance.http import page, profiles, report, runner
from conformance.http.catalogue import Catalogue
from conformance.http.event_log import NoEvents, try_connection
from conformance.http.laws import LAWS, TESTED_TOO
from conformance.http.plan import Plan
from conformance.http.requirements import GROUPS, Undecided, as_markdown, requirements
from conformance.http.servers import Issuer, serving
from conformance.http.tokens import CommandTokens, Key, KeyTokens, NoTokens, TokenSource
from conformance.http.transport import BoundedTransport
from conformance.http.vault import AWAY
from conformance.http.verdicts import OPEN, USAGE, exit_code, verdicts_of

LOCAL_ISSUER = "urn:cdv:local-issuer"  # whose tokens a development vault trusts
_HEALTH_SECONDS = 10
_KNOCK = "/v1/media/01ARZ3NDEKTSV4RRFFQ69G5FAV/meta"  # of nothing, for whoever has a token
SKEW_NOTICED_SECONDS = 3  # a Date header is exact to the second


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit by its result."""
    arguments = _parser().parse_args(argv)
    code: int = arguments.run(arguments)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cdv-conformance", description="Judge a running CDV by the contract.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser("requirements", help="print every requirement, as Markdown")
    command.set_defaults(run=lambda _: print(as_markdown(), end="") or 0)

    command = commands.add_parser(
        "run", help="judge a target", epilog="Exit: 0 it conforms; 1 not; 2 usage; 3 undecided."
    )
    command.add_argument("--url", type=_address, required=True, help="where the target answers")
    tokens = command.add_argument_group("tokens, one of").add_mutually_exclusive_group(required=True)
    tokens.add_argument(
        "--issuer-key", type=Path, metavar="FILE", help="private key of its issuer, JWK or PEM (Ed25519)"
    )
    tokens.add_argument("--token-command", metavar="COMMAND", help="prints a token; {did} stands for the DID")
    tokens.add_argument("--own-issuer", type=_port, metavar="PORT", help="be the issuer that the target is pointed to")
    command.add_argument("--issuer", help=f"iss of the tokens ({LOCAL_ISSUER}; with --own-issuer its address)")
    command.add_argument("--audience", default="cdv", help="aud of the tokens (cdv)")
    means = command.add_argument_group("means to judge more with")
    means.add_argument("--nats", default="", metavar="URL", help="where the target publishes its events")
    means.add_argument(
        "--catalogue", type=_port, metavar="PORT", help="serve a catalogue that the target is pointed to"
    )
    means.add_argument("--cors-origin", default="", metavar="ORIGIN", help="an origin that the target lists")
    means.add_argument("--max-body-bytes", type=int, default=1024 * 1024, metavar="N", help="its body limit (1 MiB)")
    means.add_argument("--ca", type=Path, metavar="FILE", help="of the authority that its certificate is from, as PEM")
    means.add_argument(
        "--rejects-deprecated", action="store_true", help="it is started with CDV_REJECT_DEPRECATED_SCHEMAS=true"
    )
    how = command.add_argument_group("how")
    how.add_argument("--profile", choices=profiles.PROFILES, default="default", help="how long to look (default)")
    how.add_argument("--seed", type=int, help="repeat the examples of another run")
    how.add_argument(
        "--only",
        type=_beginning,
        action="append",
        default=[],
        metavar="ID",
        help="ids that begin so, such as MEDIA; repeatable",
    )
    how.add_argument("--min", type=float, default=100, metavar="PERCENT", help="of MUST, for exit code 0 (100)")
    how.add_argument("--wait", type=float, default=60, metavar="SECONDS", help="for the target to answer (60)")
    for kind in ("junit", "json", "html"):
        command.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"write the report as {kind}")
    command.set_defaults(run=_run)
    return parser


def _address(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise argparse.ArgumentTypeError("not an http:// or https:// address")
    return text


def _beginning(text: str) -> str:
    found = {name for name in requirements() if name.startswith(text)}
    if not found:
        named = [*GROUPS, *requirements()]
        near = (
            get_close_matches(text.upper(), named, n=3) or [it for it in named if it.startswith(text.upper()[:2])][:3]
        )
        raise argparse.ArgumentTypeError(f"no requirement begins with {text!r}; near it: {', '.join(near or GROUPS)}")
    if found <= {*LAWS} - TESTED_TOO:
        raise argparse.ArgumentTypeError(
            f"{text} is judged over all answers, whichever are asked for: leave --only out"
        )
    return text


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError("ports are 0 to 65535")
    return number


def _try_files(arguments: argparse.Namespace) -> None:
    """Find out before the run whether its reports can be written after it. Raises OSError."""
    for path in (arguments.junit, arguments.json, arguments.html):
        if path is not None:
            there = path.exists()
            path.open("ab").close()
            if not there:
                path.unlink()  # a run that comes to nothing leaves no report


def _run(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        try:
            _try_files(arguments)
            plan = _plan(arguments, stack)
        except (NoTokens, OSError) as error:
            return _misused(str(error))
        print(f"{plan.url}: profile {plan.profile}, seed {plan.seed}", file=sys.stderr)
        try:
            _meet(plan, arguments.wait)
            if plan.nats_url:
                try_connection(plan.nats_url)
        except (httpx.HTTPError, Undecided) as error:
            print(f"cdv-conformance: undecided: {plan.url} does not answer: {error}", file=sys.stderr)
            return OPEN
        except (NoTokens, NoEvents) as error:
            return _misused(str(error))
        began = time.monotonic()
        verdicts = verdicts_of(runner.run(plan, runner.Progress(live=sys.stderr.isatty())))
        plan.seconds = round(time.monotonic() - began, 1)
    print(report.as_text(plan, verdicts))
    for path, write in (
        (arguments.junit, report.write_junit),
        (arguments.json, report.write_json),
        (arguments.html, page.write_html),
    ):
        if path is not None:
            write(path, plan, verdicts)
    return exit_code(verdicts, arguments.min)


def _plan(arguments: argparse.Namespace, stack: ExitStack) -> Plan:
    """Return the plan; what it serves is served until the stack ends. Raises NoTokens, OSError: a port is taken."""
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
        print(f"the target is to be started now, with: {' '.join(settings)}", file=sys.stderr)
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
    """Trust the authority of the file, or those of this machine. Raises OSError."""
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError as error:
        raise OSError(f"{file}: no certificate in PEM") from error


def _meet(plan: Plan, wait_seconds: float) -> None:
    """Wait for the target, try the tokens, and learn how far its clock is ahead.

    Raises: httpx.HTTPError, Undecided: it is not there. NoTokens.
    """
    deadline = time.monotonic() + wait_seconds
    transport = BoundedTransport(_HEALTH_SECONDS, verify=plan.trust)
    with httpx.Client(transport=transport, timeout=_HEALTH_SECONDS, trust_env=False) as client:
        while True:
            try:
                answer = client.get(f"{plan.url}/healthz")
                if not answer.is_server_error:
                    break
                if time.monotonic() > deadline:
                    if answer.status_code in AWAY:
                        raise Undecided(f"status {answer.status_code} of /healthz")
                    break  # what it says of itself is for the run to judge
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)
        ahead = _ahead_seconds(answer)
        if isinstance(plan.tokens, KeyTokens) and abs(ahead) > SKEW_NOTICED_SECONDS:
            plan.tokens.server_ahead_seconds = ahead
            print(f"the target's clock is {ahead:+.0f} s from ours; tokens are made by its clock", file=sys.stderr)
        token = plan.tokens.token("did:example:conformance")
        with suppress(httpx.HTTPError, Undecided):  # which is for the run to judge
            shown = client.get(f"{plan.url}{_KNOCK}", headers={"Authorization": f"Bearer {token}"})
            if shown.status_code == httpx.codes.UNAUTHORIZED:
                advice = "does it trust their issuer, and their audience? What needs a token will fail"
                print(f"the target refuses our tokens: {advice}", file=sys.stderr)


def _ahead_seconds(answer: httpx.Response) -> float:
    """Return how far the target's clock is ahead by the answer's Date, 0 if that says nothing."""
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0


def _misused(message: str) -> int:
    print(f"cdv-conformance: {message}", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    main()
