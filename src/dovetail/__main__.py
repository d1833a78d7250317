"""`python -m dovetail`, as the command."""

from dovetail.cli import main

main()
