"""Standing questions in the node: rules, their rounds, and the states that come of them."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rclpy.node import Node
from std_srvs.srv import SetBool

from hobot_llamacpp_py.engine import CancelToken, ChatConfig, Vlm
from hobot_llamacpp_py.errors import CancelledError, RuleError
from hobot_llamacpp_py.health.footprint import CPU_ENCODERS
from hobot_llamacpp_py.ros.parameters import Parameters, explained
from hobot_llamacpp_py.ros.picture_source import CameraFrames, PictureSource
from hobot_llamacpp_py.ros.results import Results
from hobot_llamacpp_py.ros.sight import Sight
from hobot_llamacpp_py.ros.watch_results import WatchResults
from hobot_llamacpp_py.watch.pace import Pace
from hobot_llamacpp_py.watch.rules import load_rules
from hobot_llamacpp_py.watch.watcher import Watcher

__all__ = ['Watch']

log = logging.getLogger(__name__)

WATCHING, NO_IMAGES, OFF = 'watching', 'no images', 'off'


class Watch:
    """The standing questions of a node.

    `look` is the inference thread's, all else may be called from any thread.

    Args:
        path: of the rules.
        parameters: gives the settings of the moment.
        results: where changes go besides.
        on_enabled: is called when it was switched on or off.

    Raises:
        RuleError: one of the rules cannot work.
    """

    def __init__(
        self,
        node: Node,
        path: Path,
        parameters: Callable[[], Parameters],
        results: Results,
        on_enabled: Callable[[], object],
    ) -> None:
        self._parameters, self._on_enabled = parameters, on_enabled
        self._watcher, self._pace = Watcher(), Pace()
        self._lock = threading.Lock()  # of the states, and of what is published
        self._path: Path | None = path
        self._modified = _modified(path)
        self._watcher.rules = load_rules(path)  # before there is anything that a miss would leave
        self._results = WatchResults(node, results)
        self._results.set_rules(self._watcher.rules)
        self._source: CameraFrames | None = None
        self._is_enabled = True
        self._last_error = ''
        self._begun = time.monotonic()
        self.state = WATCHING
        """What the watch does; `no images` until there are some again."""
        self.judged = 0
        """Frames that were asked about."""
        self._published_before = 0
        node.create_service(SetBool, '~/watch/enable', self._on_enable)

    @property
    def is_on(self) -> bool:
        """Whether there is something to watch for."""
        return self._is_enabled and self._path is not None

    def follow(self, source: PictureSource) -> None:
        """Watch what a source shows, from when there is an engine."""
        assert isinstance(source, CameraFrames)  # others are refused with the parameters
        self._source = source
        self._published_before = source.published
        source.watch(self.wanted_from)

    def set_file(self, path: Path | None) -> None:
        """Watch by the rules of a file from now on; None: by none.

        Raises:
            RuleError: one of them cannot work; all stays as it is.
        """
        modified = _modified(path) if path else None
        rules = load_rules(path) if path else ()
        with self._lock:
            self._watcher.rules = rules
            self._results.set_rules(rules)
            self._path, self._modified = path, modified

    def check(self) -> None:
        """See whether the rules' file has changed, and whether images still come."""
        self._follow_file()
        if self._source:
            self._check_images(self._source.received())

    def _follow_file(self) -> None:
        """Read the rules again if their file has changed; a wrong one changes nothing."""
        path = self._path
        if path is None or (modified := _modified(path)) == self._modified:
            return
        try:
            self.set_file(path)
            log.info('%s has changed: %s rules', path, len(self._watcher.rules))
        except RuleError as error:
            self._modified = modified  # said once
            log.error('%s; the rules stay as they were', error)

    def wanted_from(self) -> float:
        """Return when the next frame is wanted, on the steady clock; infinity: none is."""
        if not self.is_on:
            return math.inf
        parameters = self._parameters()
        return self._pace.next(parameters.watch_period, parameters.watch_max_load)

    def look(self, engine: Vlm, sight: Sight, config: ChatConfig, cancel: CancelToken) -> bool:
        """Ask what is due about a frame; False if that was interrupted and is to go on."""
        if not self._watcher.has_work(sight.picture):
            self._pace.note(time.monotonic(), time.monotonic())
            return True
        begun = time.monotonic()
        if self.state == NO_IMAGES and sight.is_fresh(self._timeout):
            self._enter(WATCHING)
        try:
            for evaluation in self._watcher.watch(engine, sight.picture, config, cancel):
                with self._lock:
                    if self.state == WATCHING:
                        self._results.evaluation(evaluation, sight)
                if evaluation.has_changed:
                    log.info('watch %s: %s', evaluation.rule.name, evaluation.value)
        except CancelledError:
            return False
        except Exception as error:
            self._fail(explained(error))
            return True
        finally:
            self._pace.note(begun, begun + max(time.monotonic() - begun, self._encoding(sight)))
        self._last_error = ''
        self.judged += 1
        return True

    @property
    def _timeout(self) -> float:
        """Seconds without an image, after which there are none."""
        return max(self._parameters().image_timeout, 1.0)

    def _encoding(self, sight: Sight) -> float:
        """Return the seconds that the encoder had the processor for a frame."""
        on_cpu = Path(self._parameters().model_file_name).suffix.lower() in CPU_ENCODERS
        return sight.infer.duration / 1e9 if on_cpu and sight.infer else 0.0

    def _check_images(self, received: float | None) -> None:
        """See whether images still come; if not, what was seen is no state any more.

        Args:
            received: when the newest one was, on the steady clock; None: there was none yet.
        """
        if not self.is_on:
            return
        age = time.monotonic() - max(self._begun, received or 0.0)
        have_stopped = age > self._timeout
        if have_stopped and self.state == WATCHING:
            log.warning('no image for %.1f s (image_timeout): nothing is watched', age)
            self._enter(NO_IMAGES)
        elif not have_stopped and self.state == NO_IMAGES:
            self._enter(WATCHING)

    def found(self) -> Mapping[str, object]:
        """Return what is known of each rule, for JSON."""
        values = self._watcher.values()
        rules = [
            {'rule': rule.name, 'question': rule.question, 'answer': values.get(rule.name)}
            for rule in self._watcher.rules
        ]
        return {'state': self.state if self.is_on else OFF, 'rules': rules}

    def describe(self) -> Mapping[str, object]:
        """Return figures for the diagnostics."""
        published = self._source.published if self._source else 0
        values = self._watcher.values()
        shown = {f'watch {n}': 'unknown' if v is None else v for n, v in values.items()}
        return {
            'watch': self.state if self.is_on else OFF,
            'watch error': self._last_error,
            'watch frames judged': self.judged,
            'watch frames skipped': max(0, published - self._published_before - self.judged),
            **shown,
        }

    def _enter(self, state: str) -> None:
        """Tell that from now on something else is done, and what was known is old news."""
        with self._lock:
            if self.state == NO_IMAGES and state == WATCHING:
                log.info('images come again: watching')
            self.state = state
            if state != WATCHING:
                self._watcher.forget()
                self._results.withdraw()
            self._results.state(state)

    def _fail(self, error: str) -> None:
        if error != self._last_error:
            log.error('the standing questions cannot be asked: %s', error)
        self._last_error = error

    def enable(self, on: bool) -> None:
        """Switch it on or off; what was known until then is old news."""
        if on != self._is_enabled:
            self._is_enabled, self._begun = on, time.monotonic()
            self._enter(WATCHING if on else OFF)
            self._on_enabled()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.enable(request.data)
        response.success, response.message = True, self.state
        return response


def _modified(path: Path) -> tuple[int, int] | None:
    """Return what changes with a file; None if it is gone."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size
    return None
