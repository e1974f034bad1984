"""``python -m service`` is ``freshet``."""

from service.cli import main

main()
