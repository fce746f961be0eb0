"""The parameters of answers and models: sampling, decoder, encoder."""

from __future__ import annotations

from dataclasses import dataclass

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.ros.parameter_spec import param, setting
from hobot_llamacpp_py.vision.backends import BACKENDS

__all__ = ['AnswerParameters', 'DecoderParameters', 'EncoderParameters', 'SamplingParameters']

# Only the whole table is made, not its parts: they need no methods, which take time to write.


@dataclass(frozen=True, init=False, repr=False, eq=False)
class AnswerParameters:
    """What an answer may be."""

    max_tokens: int = setting(
        ChatConfig,
        'max_tokens',
        'most tokens of an answer',
        '一个回答最多多少个 token',
        at_least=1,
        runtime=True,
    )
    json_schema: str = param(
        '',
        'JSON Schema that the answer follows, inline or a file; empty: none',
        '回答须符合的 JSON Schema，直接写出或给文件；为空：不约束',
        runtime=True,
    )
    grammar: str = param(
        '',
        'grammar (GBNF or Lark) that the answer follows instead, inline or a file; empty: none',
        '回答改为符合的语法（GBNF 或 Lark），直接写出或给文件；为空：不约束',
        runtime=True,
    )
    thinking: str = setting(
        ChatConfig,
        'thinking',
        'whether a model that can think before it answers does so; auto: as it likes;'
        ' thoughts are on ~/thinking only',
        '能先思考再回答的模型是否思考；auto：由模型决定；思考只出现在 ~/thinking 上',
        runtime=True,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class SamplingParameters:
    """How the next token is chosen."""

    temperature: float = setting(
        SamplingConfig,
        'temperature',
        'sampling temperature; 0: greedy',
        '采样温度；0：贪心解码',
        at_least=0,
        at_most=100,
        runtime=True,
    )
    top_k: int = setting(
        SamplingConfig,
        'top_k',
        'sample from this many most likely tokens; 0: from all',
        '只从概率最高的这么多个 token 中采样；0：不限',
        at_least=0,
        at_most=0x7FFFFFFF,
        runtime=True,
    )
    top_p: float = setting(
        SamplingConfig,
        'top_p',
        'sample from the most likely tokens of this total probability; 1: from all',
        '只从累计概率达到此值的最可能 token 中采样；1：不限',
        at_least=0,
        at_most=1,
        runtime=True,
    )
    min_p: float = setting(
        SamplingConfig,
        'min_p',
        'drop tokens less likely than this share of the most likely one; 0: none',
        '去掉概率低于最高概率这一比例的 token；0：不去掉',
        at_least=0,
        at_most=1,
        runtime=True,
    )
    repeat_penalty: float = setting(
        SamplingConfig,
        'repeat_penalty',
        'divide the logits of recent tokens by this; 1: off',
        '重复惩罚，最近出现过的 token 的 logits 除以此值；1：关闭',
        at_least=0.01,
        at_most=10,
        runtime=True,
    )
    repeat_last_n: int = setting(
        SamplingConfig,
        'repeat_last_n',
        'tokens that the repeat penalty looks back on; -1: the whole context',
        '重复惩罚回看多少个 token；-1：整个上下文',
        at_least=-1,
        runtime=True,
    )
    seed: int = setting(
        SamplingConfig,
        'seed',
        'seed of the random numbers; -1: another one each time',
        '随机数种子；-1：每次不同',
        at_least=-1,
        at_most=0xFFFFFFFF,
        runtime=True,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class DecoderParameters:
    """llama.cpp's context."""

    n_ctx: int = setting(
        DecoderConfig,
        'n_ctx',
        'positions in the KV cache',
        'KV 缓存的位置数，即上下文长度',
        at_least=64,
        at_most=1 << 20,
    )
    n_ubatch: int = setting(
        DecoderConfig,
        'n_ubatch',
        'most positions computed at once',
        '一次计算的最多位置数',
        at_least=1,
        at_most=1 << 16,
    )
    flash_attn: str = setting(
        DecoderConfig, 'flash_attn', 'flash attention', '是否使用 flash attention'
    )
    kv_cache_type: str = setting(
        DecoderConfig, 'kv_cache_type', 'number type of the KV cache', 'KV 缓存的数值类型'
    )
    speculative: bool = setting(
        ChatConfig,
        'speculative',
        'speculative decoding: draft tokens from earlier answers and the prompt; the answer stays'
        ' the same',
        '投机解码：用之前的回答和提示词起草 token；回答不变',
        runtime=True,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class EncoderParameters:
    """The vision encoder."""

    encoder_backend: str = setting(
        EncoderConfig,
        'backend',
        'backend of the vision encoder; auto: by the suffix',
        '视觉编码器的后端；auto：由后缀决定',
        choices=('auto', *BACKENDS),
    )
    bpu_core: int = setting(
        EncoderConfig,
        'bpu_core',
        'BPU core of the encoder; 0: any; 1: the first, and so on',
        '编码器使用的 BPU 核心；0：任意；1：第一个，依此类推',
        at_least=0,
        at_most=7,
    )
    bpu_priority: int = setting(
        EncoderConfig,
        'bpu_priority',
        'BPU priority of the encoder; 255: the most urgent',
        '编码器在 BPU 上的优先级；255 最紧急',
        at_least=0,
        at_most=255,
    )
    encoder_timeout: float = setting(
        EncoderConfig,
        'timeout',
        'seconds after which a running encoder counts as hung: it is stopped, a BPU or mmproj one'
        ' is started again',
        '编码器运行超过这么多秒即视为卡住：会被停止，BPU 或 mmproj 编码器会重新启动',
        at_least=0.1,
        at_most=86400,
    )
