"""`python -m replaykit`."""

import sys

from replaykit.cli.main import command

sys.exit(command())
