"""`python -m statetrain`: see `statetrain.cli`."""

import sys

from statetrain.cli import main

sys.exit(main())
