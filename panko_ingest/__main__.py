"""``python -m panko_ingest`` is ``panko-ingest``."""

import sys

from panko_ingest.cli.main import main

sys.exit(main())
