"""Standing questions in the node: rules, their rounds, and the states that come of them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rclpy.node import Node
from std_srvs.srv import SetBool

from hobot_llamacpp_py.engine import CancelToken, ChatConfig, Vlm
from hobot_llamacpp_py.errors import CancelledError
from hobot_llamacpp_py.health.footprint import CPU_ENCODERS
from hobot_llamacpp_py.ros.camera_frames import CameraFrames
from hobot_llamacpp_py.ros.parameters import Parameters, explained
from hobot_llamacpp_py.ros.picture_source import PictureSource
from hobot_llamacpp_py.ros.results import Results
from hobot_llamacpp_py.ros.sight import Sight
from hobot_llamacpp_py.ros.watch_frames import WatchFrames
from hobot_llamacpp_py.ros.watch_results import WatchResults
from hobot_llamacpp_py.watch.pace import Pace
from hobot_llamacpp_py.watch.rules import Rule, Value, load_rules
from hobot_llamacpp_py.watch.rules_file import RulesFile
from hobot_llamacpp_py.watch.watcher import Evaluation, Watcher

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
        notify: is called when frames are wanted at another time than before.

    Raises:
        RuleError: one of the rules cannot work.
    """

    def __init__(
        self,
        node: Node,
        path: Path,
        parameters: Callable[[], Parameters],
        results: Results,
        notify: Callable[[], object],
    ) -> None:
        self._parameters, self._notify = parameters, notify
        self._watcher, self._pace = Watcher(), Pace()
        self._lock = threading.Lock()  # of the states, and of what is published
        self._file: RulesFile | None = RulesFile(path)
        self._watcher.rules = load_rules(path)  # before there is anything that a miss would leave
        self._results = WatchResults(node, results)
        self._results.set_rules(self._watcher.rules)
        self._is_enabled = True
        self._last_error = self._file_error = ''
        self._begun = time.monotonic()
        self.state = WATCHING
        """What the watch does; `no images` until there are some again."""
        self.is_held = False
        """A person is being answered: no frame is encoded for the rules meanwhile."""
        self.frames = WatchFrames()
        _tell_rules(path, self._watcher.rules)
        node.create_service(SetBool, '~/watch/enable', self._on_enable)

    @property
    def is_on(self) -> bool:
        """Whether there is something to watch for."""
        return self._is_enabled and self._file is not None

    def follow(self, source: PictureSource) -> None:
        """Watch what a source shows, from when there is an engine."""
        assert isinstance(source, CameraFrames)  # others are refused with the parameters
        self.frames.follow(source)
        self._begin()
        source.watch(self.wanted_from)

    def set_file(self, path: Path | None) -> None:
        """Watch by the rules of a file from now on; None: by none.

        Raises:
            RuleError: one of them cannot work; all stays as it is.
        """
        file = RulesFile(path) if path else None
        rules = load_rules(path) if path else ()
        was_on = self.is_on
        with self._lock:
            self._results.set_rules(rules)
            self._watcher.rules = rules
            self._file, self._file_error = file, ''
        _tell_rules(path, rules)
        if was_on != self.is_on:
            self._begin()

    def check(self) -> None:
        """See whether the rules' file has changed, and whether images still come."""
        self._follow_file()
        state = self._state_by(self.frames.received())
        if self.frames.are_followed and state != self.state:
            self._enter(state)

    def _follow_file(self) -> None:
        """Read the rules again if their file has changed; a wrong one changes nothing."""
        file = self._file
        if file is None or not file.has_changed():
            return
        try:
            self.set_file(file.path)
            self._notify()
            log.info('%s has changed: %s rules', file.path, len(self._watcher.rules))
        except Exception as error:
            self._file_error = explained(error)
            log.error('%s; the rules stay as they were', self._file_error)

    def wanted_from(self) -> float:
        """Return when to encode the next frame, on the steady clock; infinity: not at all."""
        if not self.is_on or self.is_held:
            return math.inf
        parameters = self._parameters()
        begin = self._pace.encode_from(parameters.watch_period, parameters.watch_max_load)
        return max(begin, self._watcher.due_from())

    def look_from(self) -> float:
        """Return when the next look may be, on the steady clock; infinity: not at all."""
        if not self.is_on:
            return math.inf
        parameters = self._parameters()
        return self._pace.look_from(parameters.watch_period, parameters.watch_max_load)

    def look(
        self, engine: Vlm, sight: Sight, config: Callable[[], ChatConfig], cancel: CancelToken
    ) -> bool:
        """Ask what is due about a frame; False if that was interrupted and is to go on."""
        begun = time.monotonic()
        if self.state == NO_IMAGES and sight.is_fresh(self._timeout):
            self._enter(WATCHING)
        if self.state != WATCHING or not sight.was_fresh(self._timeout):
            return True
        frame = sight.frame.received if sight.frame else None
        if not self._watcher.has_work(sight.picture, frame):
            self.frames.look(sight)
            self._pace.idle(begun, self._seeing(sight))
            return True
        self._pace.begin(begun)
        n_found, error = 0, ''
        try:
            for evaluation in self._watcher.watch(engine, sight.picture, frame, config(), cancel):
                n_found += 1
                if not self._tell(evaluation, sight):
                    break
        except CancelledError:
            self._pace.interrupt(time.monotonic() - begun)
            self.frames.begun = sight
            return False
        except Exception as failure:
            error = explained(failure)
        self._pace.end(time.monotonic() - begun, self._seeing(sight))
        self.frames.look(sight)
        self.frames.judged += n_found > 0
        if error and error != self._last_error:
            path = self._file and self._file.path
            log.error('%s: a standing question cannot be asked: %s', path, error)
        self._last_error = error
        return True

    def _tell(self, evaluation: Evaluation, sight: Sight) -> bool:
        """Publish an answer; False if nobody wants the others any more."""
        with self._lock:
            if self.state != WATCHING or not self.is_on:
                return False
            is_told = self._results.evaluation(evaluation, sight)
        if is_told and evaluation.has_changed:
            log.info('watch %s: %s', evaluation.rule.name, evaluation.value)
        return True

    def _begin(self) -> None:
        """Begin anew; an image of long ago is none."""
        self._begun = time.monotonic()
        self._enter(self._state_by(self.frames.received()))

    def _state_by(self, received: float | None) -> str:
        """Return what there is to do.

        Args:
            received: when the newest image was, on the steady clock; None: there was none yet.
        """
        if not self.is_on:
            return OFF
        since = self._begun if received is None else received
        return NO_IMAGES if time.monotonic() - since > self._timeout else WATCHING

    @property
    def _timeout(self) -> float:
        """Seconds without an image, after which there are none."""
        return max(self._parameters().image_timeout, 1.0)

    def _seeing(self, sight: Sight) -> float:
        """Return the seconds of processor that a frame took before it could be judged."""
        on_cpu = Path(self._parameters().model_file_name).suffix.lower() in CPU_ENCODERS
        encoding = sight.infer.duration if on_cpu and sight.infer else 0
        return (sight.preprocess.duration + encoding) / 1e9

    def found(self) -> Mapping[str, object]:
        """Return what is known of each rule, for JSON."""
        values = self._values()
        rules = [
            {'rule': rule.name, 'question': rule.question, 'answer': values.get(rule.name)}
            for rule in self._watcher.rules
        ]
        return {'state': self._state_now, 'rules': rules}

    def describe(self) -> Mapping[str, object]:
        """Return figures for the diagnostics."""
        shown = {f'watch {n}': 'unknown' if v is None else v for n, v in self._values().items()}
        return {
            'watch': self._state_now,
            'watch error': self._error,
            'watch frames judged': self.frames.judged,
            'watch frames skipped': self.frames.skipped(),
            **shown,
        }

    @property
    def trouble(self) -> str:
        """What is wrong, in words; empty where all is well."""
        return self._error or ('no images to watch' if self._state_now == NO_IMAGES else '')

    @property
    def _error(self) -> str:
        return self._file_error or self._last_error

    @property
    def _state_now(self) -> str:
        return self.state if self.is_on else OFF

    def _values(self) -> Mapping[str, Value | None]:
        values = self._watcher.values()
        return values if self._state_now == WATCHING else dict.fromkeys(values)

    def _enter(self, state: str) -> None:
        """Tell that from now on something else is done, and what was known is old news."""
        with self._lock:
            if state == NO_IMAGES:
                log.warning(
                    'no image for %g s (image_timeout): nothing is watched; a camera that is'
                    ' slower needs more',
                    self._timeout,
                )
            elif self.state == NO_IMAGES and state == WATCHING:
                log.info('images come again: watching')
            self.state = state
            self.frames.forget_left()
            self._watcher.forget()
            if state != WATCHING:
                self._results.withdraw()
            self._results.state(state)

    def enable(self, on: bool) -> None:
        """Switch it on or off; what was known until then is old news."""
        if on != self._is_enabled:
            self._is_enabled = on
            if self._file:
                self._begin()
            self._notify()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.enable(request.data)
        response.success, response.message = True, self._state_now
        if request.data and not self._file:
            response.message += ': there are no rules (watch_file)'
        return response


def _tell_rules(path: Path | None, rules: Sequence[Rule]) -> None:
    """Log what is watched for: the wrong file, or half a question, would show nowhere else."""
    if path:
        told = '; '.join(f'{rule.name}: {rule.question}' for rule in rules)
        log.info('watching by %s: %s', path, told[:1000])
