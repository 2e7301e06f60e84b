"""``panko-ingest-status upgrade check``: the checks of ``panko-ingest check`` in oslo.upgradecheck's form."""

import sys
from functools import partial

from oslo_config import cfg
from oslo_upgradecheck import upgradecheck
from oslo_upgradecheck.upgradecheck import Code, Result, UpgradeCommands

from panko_ingest import config_reader, guarded_log
from panko_ingest.cli import check
from panko_ingest.cli.main import EXIT_USAGE, fail
from panko_ingest.errors import ConfigError
from panko_ingest.findings import FAILURE, OK, WARNING
from panko_ingest.foreign_text import escaped

_CODES = {OK: Code.SUCCESS, WARNING: Code.WARNING, FAILURE: Code.FAILURE}


class _Checks(UpgradeCommands):
    """Runs each check when it is asked for, by when the configuration was read."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__()
        self._conf = conf
        self._upgrade_checks = tuple(
            (title, partial(_Checks._run, run=run)) for title, run in check.CHECKS.items()
        )

    def _run(self, *, run: check.Check) -> Result:
        findings = list(check.found_by(run, self._conf))
        worst = max((_CODES[finding.level] for finding in findings), default=Code.SUCCESS)
        details = [
            escaped(f"{finding.subject}: {finding.text}") for finding in findings if finding.level != OK
        ]
        return Result(worst, "; ".join(details) or None)


def main() -> int:
    """Run ``upgrade check``; the exit codes are oslo.upgradecheck's: 0, 1 warning, 2 failure, 255 error."""
    guarded_log.guard_log()
    conf = cfg.ConfigOpts()
    upgradecheck.register_cli_options(conf, _Checks(conf))
    try:
        config_reader.read(conf=conf)
    except ConfigError as error:
        return fail(error, EXIT_USAGE)
    # Its own main() reads the configuration by itself, and ends with a traceback that quotes it.
    upgradecheck.CONF = conf
    return int(upgradecheck.run(conf))


if __name__ == "__main__":
    sys.exit(main())
