"""The command line: parse, call, print, exit code. No arithmetic; torch only inside a command, so that `--help` answers at once.

Importing a module registers its commands, in the order of `--help`.
"""
# ruff: noqa: F401
# isort: skip_file

from humar_bench.cli import measuring, studies, roofline, backends, claims, variants, accuracy, search
from humar_bench.cli import saved, calibrate, about, data, training
from humar_bench.cli.app import main
