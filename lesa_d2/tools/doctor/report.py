"""The command line of the doctor: all findings, how to fix them, and what a bug report needs."""

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence

from .environment import check_environment
from .findings import Finding
from .inputs import Inputs

COMMAND = "lesa doctor"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Check the environment and, where given, a config, a data set and a checkpoint. The exit "
        "status is 1 when anything must be fixed.",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="of either kind, or a zoo's name")
    parser.add_argument("--dataset", default="", metavar="DIR", help="a COCO-format or ImageNet-style folder")
    parser.add_argument(
        "--checkpoint", default="", metavar="F", help="weights of this package, or to be converted"
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="on the config's device: compare the attention with its definition, and time some training steps",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print what must be fixed alone",
    )
    parser.add_argument("--bug-report", action="store_true", help="add what a report of a problem needs")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report, and return the exit status: 1 when something has to be fixed."""
    args = parse_args(arguments)
    findings = diagnose(args)
    if text := lines(findings, args.quiet):
        print("\n".join(text))
    given = sys.argv[1:] if arguments is None else arguments
    if args.bug_report or not args.quiet:
        print("\n" + (bug_report(given) if args.bug_report else HINT))
    return 1 if any(finding.fix for finding in findings) else 0


def diagnose(args: argparse.Namespace) -> list[Finding]:
    """Return the findings of every check that the arguments allow, in order; no check raises an error."""
    inputs = Inputs(args.config_file, args.dataset, args.checkpoint, args.opts, args.gpu)
    return [*check_environment(), *inputs.check()]


def lines(findings: Sequence[Finding], quiet: bool = False) -> list[str]:
    """Return one line for each finding, problems first, then every fix under the names that it is for.

    Args:
        findings: in the order of the checks.
        quiet: leave out what is as it should be.
    """
    shown = [finding for finding in findings if finding.fix]
    shown += [] if quiet else [finding for finding in findings if not finding.fix]
    width = max((len(finding.name) for finding in shown), default=0)
    text = [f"{'!!' if finding.fix else 'ok'}  {finding.name:<{width}}  {finding.state}" for finding in shown]
    fixes: dict[str, list[str]] = {}
    for finding in findings:
        if finding.fix:
            fixes.setdefault(finding.fix, []).append(finding.name)
    if fixes:
        text += ["", "To fix:"]
    for fix, names in fixes.items():
        text += [f"  {', '.join(names)}", *(f"    {line}" for line in fix.splitlines())]
    return text


HINT = f"Reporting a problem? Paste what this prints:  {COMMAND} --bug-report, with the same arguments."


def bug_report(arguments: Sequence[str]) -> str:
    """Return the versions of everything, and how the doctor was called."""
    from ... import __version__

    facts = [
        "For a bug report: everything above, and",
        f"lesa_d2     {__version__}",
        f"system      {platform.platform()}",
        f"command     {COMMAND} {shlex.join(arguments)}",
    ]
    try:
        from detectron2.utils.collect_env import collect_env_info

        facts.append(collect_env_info())
    except Exception as error:  # without detectron2, or where a compiler cannot even be asked
        facts.append(f"detectron2's report fails: {type(error).__name__}: {error}")
    return "\n".join(facts)
