"""``python -m sigmaquant``."""

from sigmaquant.cli import main

main()
