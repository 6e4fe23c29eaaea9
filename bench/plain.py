"""replaykit as a plain install runs it: without numpy, which only the plot here needs."""

import sys

sys.modules["numpy"] = None  # type: ignore[assignment]

from replaykit.cli.start import command  # noqa: E402

sys.exit(command())
