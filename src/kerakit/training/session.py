"""What holds while ``fit`` runs: errors keep their words, Ctrl-C loses nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from kerakit.data.generator import BatchGenerator
from kerakit.errors import KerakitError
from kerakit.run import Run
from kerakit.script import INTERRUPTED


@contextlib.contextmanager
def session(run: Run, *generators: BatchGenerator) -> Iterator[None]:
    """Wrap ``fit``.

    An error of a generator (an unreadable image) comes out as it was raised, not as TensorFlow wrapped it. Ctrl-C says what
    was kept and how to go on, and exits with 130. At the end the generators stop reading ahead.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(_how_to_go_on(run), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception:
        for generator in generators:
            if isinstance(generator.error, (KerakitError, OSError)):
                raise generator.error from None
        raise
    finally:
        for generator in generators:
            generator.close()


def _how_to_go_on(run: Run) -> str:
    kept = run.kept()
    if not kept:
        return "\ninterrupted: no epoch was finished, so nothing was saved yet."
    return (
        f"\ninterrupted: {run.path} keeps {len(kept)} checkpoint{'s' * (len(kept) > 1)}, "
        f"the best from epoch {kept[0].epoch}. To go on from it, repeat your command with\n"
        f"  --from_ckpt {run.path} --save_to {run.path}-2\n"
        f"To deploy it as it is:\n  python deploy.py --read_from {run.path} --save_to deploy/{run.path.name}"
    )
