"""`python -m dovetail.cli`, as the command."""

from dovetail.cli import main

main()
