"""`python -m fluxclient` is the command `fluxclient`."""

import sys

from fluxclient.cli.app import main

sys.exit(main())
