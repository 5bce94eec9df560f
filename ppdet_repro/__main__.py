"""`python -m ppdet_repro` is the command `ppdet-repro`."""

from ppdet_repro.cli.main import main

if __name__ == "__main__":
    main()
