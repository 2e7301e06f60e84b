"""``panko-ingest check``: what is wrong, or will be, before the daemon runs."""

import sys
from typing import Any

from oslo_config import cfg

from panko_ingest.cli import output, preflight
from panko_ingest.findings import FAILURE, WARNING, Finding

_CHECKS = (
    preflight.configuration,
    preflight.definitions,
    preflight.workers,
    preflight.broker,
    preflight.database,
)


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="look for what is wrong before the daemon runs",
        description="Look at configuration, event definitions, brokers and database, change nothing, and "
        "show what was found, each with what to do. Exit code 0: all is well, or there are only "
        "warnings; 1: something will not work.",
    )
    parser.add_argument("--json", action="store_true", help="write a JSON list")
    parser.add_argument("--strict", action="store_true", help="exit with code 1 on warnings too")
    parser.set_defaults(run=run)


def run(conf: cfg.ConfigOpts) -> int:
    """Show what was found; exit code 1 if something will not work."""
    findings = list(preflight.run(conf, _CHECKS))
    if conf.command.json:
        output.json_list(finding._asdict() for finding in findings)
    else:
        output.table(Finding._fields, findings)
        count = {level: sum(finding.level == level for finding in findings) for level in (WARNING, FAILURE)}
        sys.stdout.write(f"{len(findings)} findings: {count[FAILURE]} failures, {count[WARNING]} warnings\n")
    bad = {FAILURE, WARNING} if conf.command.strict else {FAILURE}
    return int(any(finding.level in bad for finding in findings))
