"""`python -m replaykit`."""

import sys

from replaykit.cli.start import command

sys.exit(command())
