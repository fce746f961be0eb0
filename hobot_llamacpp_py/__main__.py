"""Run the node: python -m hobot_llamacpp_py --ros-args -p NAME:=VALUE ..."""

import gc
import sys

__all__ = ['main']


def main() -> None:
    """Run the node; Ctrl-C ends it quietly also while it is being imported."""
    gc.disable()  # what is imported stays: looking for garbage in it only takes time
    try:
        from hobot_llamacpp_py.ros.main import run

        status = run()
    except KeyboardInterrupt:
        status = 0
    except ModuleNotFoundError as error:
        from hobot_llamacpp_py.health.packages import missing

        if not (line := missing(error)):
            raise
        print(line, file=sys.stderr)
        status = 1
    sys.exit(status)


if __name__ == '__main__':
    main()
