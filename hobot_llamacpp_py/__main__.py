"""Run the node: python -m hobot_llamacpp_py --ros-args -p NAME:=VALUE ..."""

import gc
import os
import sys

from hobot_llamacpp_py.signals import on_end

__all__ = ['main']


def main() -> None:
    """Run the node; a signal ends it quietly also while it is being imported."""
    # At once: an exception would be caught, or told of, somewhere in what is being imported.
    on_end(lambda *_: os._exit(0))
    # numpy and OpenCV each have an OpenBLAS, which starts a thread for each core at once.
    # Nothing here is a product of matrices.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    gc.disable()  # what is imported stays: looking for garbage in it only takes time
    # The messages' type support lies in a package that would import its code generator, too, and
    # with that a parser; it does without where there is none.
    sys.modules['rosidl_generator_py.generate_py_impl'] = None  # type: ignore[assignment]
    try:
        from hobot_llamacpp_py.ros.main import run

        status = run()
    except ModuleNotFoundError as error:
        from hobot_llamacpp_py.health.packages import missing

        if not (line := missing(error)):
            raise
        print(line, file=sys.stderr)
        status = 1
    sys.exit(status)


if __name__ == '__main__':
    main()
