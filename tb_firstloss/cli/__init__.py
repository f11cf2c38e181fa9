"""The command line: ``main`` runs one of the commands in `commands`."""

from tb_firstloss.cli.main import main

__all__ = ["main"]
