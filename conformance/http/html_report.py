"""The report as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path

from conformance.http.plan import Plan
from conformance.http.report import scores
from conformance.http.requirements import GROUPS
from conformance.http.verdicts import FAILED, NOT_JUDGED, PASSED, UNDECIDED, Score, Verdict

_MARKS = {PASSED: "✓", FAILED: "✗", UNDECIDED: "?", NOT_JUDGED: "·"}
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #59636e; --line: #d1d9e0; --code: #f3f5f7;
  --passed: #116329; --failed: #b3261e; --undecided: #7d4e00; --not-judged: #59636e }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #14171b; --faint: #9aa4af; --line: #343b43;
  --code: #1e2329; --passed: #5bd47a; --failed: #ff8a80; --undecided: #e8b04b; --not-judged: #9aa4af } }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line) }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .5rem; margin: 1rem 0 }
dl div { border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .6rem }
dt { color: var(--faint); font-size: .85rem } dd { margin: 0; font-weight: 600 } dd small { font-weight: 400 }
details, article { border-bottom: 1px solid var(--line); padding: .45rem 0 } summary { cursor: pointer }
.mark { display: inline-block; width: 1.4em; font-weight: 700; text-align: center }
.passed .mark { color: var(--passed) } .failed .mark, .failed .detail { color: var(--failed) }
.undecided .mark { color: var(--undecided) } .not-judged .mark { color: var(--not-judged) }
code { font-family: ui-monospace, monospace } .id { font-weight: 600; margin-right: .4em }
small, .detail { color: var(--faint) } .detail { margin: .2rem 0 .2rem 1.6rem; white-space: pre-wrap;
  overflow-wrap: anywhere }
pre { background: var(--code); padding: .7rem; border-radius: .4rem; overflow-x: auto; font-size: .85rem }
"""


def write_html(path: Path, plan: Plan, verdicts: list[Verdict]) -> None:
    path.write_text(as_html(plan, verdicts), encoding="utf-8")


def as_html(plan: Plan, verdicts: list[Verdict]) -> str:
    """Return the page: the scores, then the failed requirements, then all requirements by group."""
    failed = [each for each in verdicts if each.verdict == FAILED]
    sections = [_section("Failed requirements", failed)] if failed else []
    for group in GROUPS.values():
        members = [each for each in verdicts if each.requirement.group == group]
        sections.append(_section(group[0].upper() + group[1:], members))
    cards = "".join(_card(name, score) for name, score in scores(verdicts) if score != Score(0, 0, 0, 0))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>CDV conformance: {escape(plan.url)}</title>
<style>{_STYLE}</style>
<main>
<h1>CDV conformance</h1>
<p><code>{escape(plan.url)}</code><br><small>profile {escape(plan.profile)}, seed {plan.seed},
{plan.seconds:.0f} seconds. To repeat the same examples, add <code>--seed {plan.seed}</code>.</small></p>
<dl>{cards}</dl>
{"".join(sections)}
</main>
</html>
"""


def _card(name: str, score: Score) -> str:
    percent = "not judged" if score.percent is None else f"{score.percent:.4g} %"
    left = score.undecided + score.not_judged
    rest = f" <small>{left} open</small>" if left else ""
    return f"<div><dt>{escape(name)}</dt><dd>{percent}{rest}</dd></div>"


def _section(title: str, verdicts: list[Verdict]) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(map(_entry, verdicts))}</section>\n"


def _entry(each: Verdict) -> str:
    requirement = each.requirement
    head = (
        f'<span class="mark" title="{each.verdict}">{_MARKS[each.verdict]}</span>'
        f'<span class="id">{requirement.id}</span>'
        f"{escape(requirement.clause)} <small>{requirement.level}, {escape(requirement.source)}, {each.verdict}</small>"
    )
    detail = f'<p class="detail">{escape(each.detail)}</p>' if each.verdict != PASSED else ""
    kind = each.verdict.replace(" ", "-")
    if not each.script:
        return f'<article class="{kind}">{head}{detail}</article>'
    script = f"<pre><code>{escape(each.script)}</code></pre>"
    return f'<details class="{kind}"><summary>{head}</summary>{detail}{script}</details>'
