"""What makes the engine, by the settings: the models, or a server that stands in for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hobot_llamacpp_py.engine import Vlm
from hobot_llamacpp_py.engine.threads import usable_cores
from hobot_llamacpp_py.ros.log_forwarding import log_as
from hobot_llamacpp_py.ros.settings import Settings

if TYPE_CHECKING:
    from hobot_llamacpp_py.engine import Engine
    from hobot_llamacpp_py.remote.engine import RemoteEngine

__all__ = ['loader']


def loader(settings: Settings, logger: Any) -> Callable[[], Vlm]:
    """Return what makes the engine, in the inference thread, and import what that needs."""
    if settings.current.is_remote:
        from hobot_llamacpp_py.remote.engine import RemoteEngine

        return lambda: _connect(RemoteEngine, settings, logger)
    from hobot_llamacpp_py.engine import Engine

    return lambda: _load(Engine, settings, logger)


def _connect(kind: type[RemoteEngine], settings: Settings, logger: Any) -> RemoteEngine:
    log_as(logger)
    parameters, address = settings.current, settings.files['llm_model_name']
    return kind.open(address, parameters.remote_config(), parameters.vision_config())


def _load(kind: type[Engine], settings: Settings, logger: Any) -> Engine:
    log_as(logger)
    parameters, files = settings.current, settings.files
    wanted, cores = parameters.llm_threads, usable_cores()
    if wanted > cores:
        logger.warning(
            f'llm_threads {wanted} is more than the {cores} cores there are:'
            f' {cores} threads are used'
        )
    engine = kind.open(
        files['llm_model_name'],
        files.get('model_file_name'),
        family=parameters.family,
        config=parameters.decoder_config(),
        encoder_config=parameters.encoder_config(),
        vision=parameters.vision_config(),
    )
    try:
        settings.on_loaded(engine)
    except BaseException:
        engine.close()
        raise
    return engine
