"""`python -m axoloci`: the `axoloci` command of this very interpreter."""

from axoloci.cli import main

if __name__ == "__main__":
    main(prog_name="axoloci")
