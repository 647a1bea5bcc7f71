"""Entry point of ``python -m seqsae_utils.run``, see `main`."""

import signal
import sys

from . import main

# make ends its children with SIGTERM: leave as after Ctrl-C, so that the kernel ends too.
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
