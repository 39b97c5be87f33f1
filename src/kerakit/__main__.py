"""``python -m kerakit``: the command ``kerakit``."""

from kerakit.cli import main

if __name__ == "__main__":
    main()
