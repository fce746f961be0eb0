"""Figures of what was asked and answered: for Prometheus, and for the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from hobot_llamacpp_py.engine import Stats
from hobot_llamacpp_py.web.completion import (
    Begun,
    Completion,
    Done,
    Event,
    Failed,
    Piece,
    Thought,
)

__all__ = ['Metrics', 'temperature']

PREFIX = 'hobot_llamacpp_'
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
THERMAL = Path('/sys/class/thermal')
# What a backend's figures are called here: name, what it is, whether it only grows.
_OF_THE_MOMENT = {
    'queue': ('queue_length', 'Requests that wait for their turn', False),
    'refused': ('requests_refused', 'Requests that found the queue full', True),
    'KV cells used': ('kv_cells_used', 'Positions that the KV cache holds', False),
    'KV cells': ('kv_cells', 'Positions that the KV cache has room for', False),
    'encoder restarts': (
        'encoder_restarts',
        "How often the encoder's process was started again after a failure",
        True,
    ),
    'frames received': ('frames_received', 'Images that were taken from the topic', True),
    'frames dropped': ('frames_dropped', 'Of those, the ones that no question was about', True),
    'frames lost': ('frames_lost', 'Images that did not arrive whole', True),
    'temperature': ('temperature_celsius', 'The hottest part of the processor', False),
}


class Metrics:
    """Counts what happens; `begin` to `fail` are called in the inference thread.

    Args:
        figures: gives the figures of the moment, as a `Backend` does.
    """

    def __init__(self, figures: Callable[[], Mapping[str, float]]) -> None:
        self.last: Mapping[str, float] = {'answers': 0}
        """Figures of the newest answer, and how many there were."""
        self._figures = figures
        self._begun: float | None = None  # when the running request's turn came, until it speaks
        # They would be a second line for each, which says when we were started.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        registry.register(_OfTheMoment(self.figures))
        self._requests = Counter(
            f'{PREFIX}requests',
            'Requests whose turn came, by where they came from and how they ended',
            ('source', 'outcome'),
            registry=registry,
        )
        self._errors = Counter(
            f'{PREFIX}errors', 'Requests that failed, by the error', ('kind',), registry=registry
        )
        self._waits = self._histogram('wait_seconds', 'Until the turn of a request came')
        self._first_tokens = self._histogram(
            'first_token_seconds', 'From then until the first text of its answer'
        )
        self._tokens = self._histogram(
            'token_seconds', 'For each token of an answer, on average', TOKEN_SECONDS
        )
        self._prompt = self._counter('prompt_tokens', 'Tokens of prompts, image tokens included')
        self._completion = self._counter('completion_tokens', 'Tokens of answers and thoughts')
        self._reused = self._counter('kv_reused', 'Positions of prompts found in the KV cache')
        self._prefilled = self._counter('kv_prefilled', 'Positions of prompts that were decoded')

    def begin(self, waited: float) -> None:
        """Note that a request's turn has come, after so many seconds."""
        self._waits.observe(waited)
        self._begun = time.perf_counter()

    def speak(self) -> None:
        """Note that there is text, if it is the first of an answer."""
        if self._begun is not None:
            self._first_tokens.observe(time.perf_counter() - self._begun)
            self._begun = None

    def end(self, source: str, outcome: str, n_tokens: int, stats: Stats) -> None:
        """Note the end of an answer."""
        self._begun = None
        self._requests.labels(source, outcome or 'stop').inc()
        self._prompt.inc(stats.reused + stats.prefilled)
        self._completion.inc(n_tokens)
        self._reused.inc(stats.reused)
        self._prefilled.inc(stats.prefilled)
        last = {
            'answers': self.last['answers'] + 1,
            'encoder ms': 1e3 * stats.encode_s,
            'first token ms': 1e3 * stats.first_token_s,
        }
        if stats.decode_s and stats.decoded:  # a cancelled one has no time
            self._tokens.observe(stats.decode_s / stats.decoded)
            last['tokens per second'] = stats.decoded / stats.decode_s
        self.last = last

    def fail(self, source: str, kind: str = '') -> None:
        """Note the end of a request without an answer: the error, or none if it was cancelled."""
        self._begun = None
        self._requests.labels(source, 'failed' if kind else 'cancelled').inc()
        if kind:
            self._errors.labels(kind).inc()

    def observe(self, completion: Completion, event: Event) -> None:
        """Note what happens to a request that came over HTTP."""
        if isinstance(event, Begun):
            self.begin(event.waited)
        elif isinstance(event, (Piece, Thought)):
            self.speak()
        elif isinstance(event, Done):
            self.end('http', event.reason, event.n_tokens, event.stats)
        elif isinstance(event, Failed):
            self.fail('http', event.kind if event.kind != 'CancelledError' else '')

    def figures(self) -> dict[str, float]:
        """Return the figures of the moment; may wait for the file system."""
        figures = dict(self._figures())
        celsius = temperature()
        if celsius is not None:
            figures['temperature'] = celsius
        return figures

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return all of it as Prometheus reads it, and the content type that was chosen."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(PREFIX + name, what, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(PREFIX + name, what, registry=self.registry)


class _OfTheMoment(Collector):
    """What is asked for when somebody wants to know."""

    def __init__(self, figures: Callable[[], Mapping[str, float]]) -> None:
        self._figures = figures

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: else all would be asked for when this is registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        figures = self._figures()
        for key, (name, what, grows) in _OF_THE_MOMENT.items():
            if key in figures:
                family = CounterMetricFamily if grows else GaugeMetricFamily
                yield family(PREFIX + name, what, value=figures[key])


def temperature(folder: Path = THERMAL) -> float | None:
    """Return the temperature of the hottest part of the processor in °C; None: not known."""
    found = []
    for file in folder.glob('thermal_zone*/temp'):
        try:
            found.append(int(file.read_text()) / 1000)
        except (OSError, ValueError):  # a sensor that is switched off
            continue
    return max(found, default=None)
