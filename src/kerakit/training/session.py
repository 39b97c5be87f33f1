"""What holds while ``fit`` runs: errors keep their words, Ctrl-C loses nothing."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from kerakit.data.generator import BatchGenerator
from kerakit.errors import KerakitError, UserError
from kerakit.run import Run
from kerakit.script import INTERRUPTED, deploy_command
from kerakit.training.callbacks import Checkpoints
from kerakit.training.report import reported
from kerakit.training.trackers import tracking


@contextlib.contextmanager
def session(
    run: Run, generators: Sequence[BatchGenerator], callbacks: Sequence[Any] = ()
) -> Iterator[None]:
    """Wrap ``fit``.

    Whatever ends it, the best weights that ``Checkpoints`` among ``callbacks`` keeps in memory are saved.
    An error of a generator (an unreadable image) comes out as it was raised, not as TensorFlow wrapped it. Ctrl-C says what
    was kept and how to go on, and exits with 130. At the end the generators stop reading ahead. The trackers among
    ``callbacks`` take the whole block as one run.
    """
    try:
        with tracking(callbacks), reported(run, generators, callbacks):
            try:
                yield
            except BaseException:
                for callback in callbacks:
                    if isinstance(callback, Checkpoints):
                        callback.on_train_end()
                raise
    except KeyboardInterrupt:
        print(_how_to_go_on(run), file=sys.stderr)
        run.discard_if_empty()
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        run.discard_if_empty()
        for generator in generators:
            if isinstance(generator.error, (KerakitError, OSError)):
                raise generator.error from None
        if isinstance(error, ValueError) and re.search(
            r"target.*output.*(rank|shape)|[Ss]hapes? .* incompatible", str(error)
        ):
            raise UserError(
                f"the loss does not fit the targets and outputs: {str(error).splitlines()[0]} For targets that are class "
                "indices use sparse_categorical_crossentropy."
            ) from None
        raise
    finally:
        for generator in generators:
            generator.close()
            for message in generator.bad.values():
                print(f"WARNING: left out of {generator.mode}: {message}", file=sys.stderr)


def _how_to_go_on(run: Run) -> str:
    kept = run.list_checkpoints()
    if not kept:
        return "\ninterrupted: no epoch was finished, so nothing was saved yet."
    path = shlex.quote(str(run.path))
    return (
        f"\ninterrupted: {run.path} keeps {len(kept)} checkpoint{'s' * (len(kept) > 1)}, "
        f"the best from epoch {kept[0].epoch}. To go on from it, repeat your command with\n"
        f"  --from_ckpt {path} --save_to {shlex.quote(f'{run.path}-2')}\n"
        f"To deploy it as it is:\n  {deploy_command(run)}"
    )
