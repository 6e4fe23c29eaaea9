"""`python -m replaykit`."""

import sys

from replaykit.cli.main import main

sys.exit(main())
