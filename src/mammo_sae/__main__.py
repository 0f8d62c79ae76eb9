"""The entry point of `python -m mammo_sae`."""

import gc

# The imports make hundreds of thousands of objects that stay. A search for garbage among them takes
# up to a fifth of the time of the imports. `mammo_sae.cli` turns it on again before the work.
gc.disable()

from mammo_sae.cli import main  # noqa: E402

main()
