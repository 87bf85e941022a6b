"""`python -m axoloci`: the `axoloci` command of this very interpreter."""

from axoloci.cli import main

main(prog_name="axoloci")
