"""``python -m kerakit`` and the command ``kerakit``."""

import kerakit

kerakit.exit_on_interrupt()

from kerakit.cli import main  # noqa: E402 - Ctrl-C is silent from the start

if __name__ == "__main__":
    main()
