"""The entry point of `python -m mammo_sae`."""

from mammo_sae.cli import main

main()
