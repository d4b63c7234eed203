"""`python -m statetrain`: see `statetrain.commands.cli`."""

import sys

from statetrain.commands.cli import main

sys.exit(main())
