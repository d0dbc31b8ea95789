import sys

from emplifai.cli import command

sys.exit(command())
