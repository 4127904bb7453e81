"""The command ``cnnbench``, also as ``python -m cnnbench``."""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def main() -> int:
    """Run the command line and return its exit code."""
    # From here on, so that a signal during the imports, which take seconds, shows no traceback.
    try:
        signal.signal(signal.SIGTERM, _terminate)
        # Under nohup it is ignored, and stays so.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, _terminate)
        # Figures are files. A name of windows that the installed matplotlib does not know, such as
        # one of another environment, would end its import.
        os.environ.pop("MPLBACKEND", None)
        from cnnbench.notices import guard_streams
        from cnnbench.signals import second_signal_ends

        guard_streams()
        with second_signal_ends():
            from cnnbench.cli.main import run

            code = run(sys.argv[1:])
            # What ends with the process needs no collection, which takes long with torch loaded.
            gc.freeze()
            gc.disable()
            if "TORCHELASTIC_RUN_ID" in os.environ:
                # Threads of torch's that still talk to others can abort a Python that ends, and
                # torchrun takes that for a failure of a run that is done.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            return code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
