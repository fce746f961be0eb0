"""The node's own parameters: those of the C++ node, pictures, prompts."""

from __future__ import annotations

from dataclasses import dataclass

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, RemoteConfig, VisionConfig
from hobot_llamacpp_py.families import FAMILIES, INTERNVL
from hobot_llamacpp_py.ros.parameter_spec import param, setting

__all__ = [
    'CppParameters',
    'OverlayParameters',
    'PictureParameters',
    'PromptParameters',
    'RemoteParameters',
    'ServerParameters',
]

# Only the whole table is made, not its parts: they need no methods, which take time to write.


@dataclass(frozen=True, init=False, repr=False, eq=False)
class CppParameters:
    """What the C++ node has, too."""

    feed_type: int = param(
        0,
        '0: answer about a local image; 1: about a subscribed image topic; 2: text chat',
        '0：回答关于一张本地图片的问题；1：关于订阅的图像话题；2：纯文本对话',
        choices=(0, 1, 2),
    )
    model_type: int = param(
        INTERNVL.number,
        '; '.join(f'{number}: {family.models}' for number, family in FAMILIES.items())
        + '; chooses prompt format and preprocessing',
        '；'.join(f'{number}：{family.models}' for number, family in FAMILIES.items())
        + '；决定提示词格式和预处理',
        choices=tuple(FAMILIES),
    )
    image: str = param(
        'config/image2.jpg', 'the local image of feed_type 0', 'feed_type 为 0 时的本地图片'
    )
    image_type: int = param(
        0,
        'the local image is 0: an encoded file (jpg, png, bmp, webp ...);'
        ' 1: raw NV12, which needs image_width and image_height',
        '本地图片的格式，0：图片文件（jpg、png、bmp、webp 等）；'
        '1：原始 NV12，需要 image_width 和 image_height',
        choices=(0, 1),
    )
    user_prompt: str = param(
        '',
        'the first prompt, asked at start; set at run time it is asked then',
        '第一个问题，启动时就问；运行时设置则立即提问',
        runtime=True,
    )
    system_prompt: str = setting(
        ChatConfig,
        'system_prompt',
        'the system prompt, or the path of a .txt file that holds it',
        '系统提示词，或存放它的 .txt 文件的路径',
        runtime=True,
    )
    model_file_name: str = param(
        'vit_model_int16_v2.bin',
        'the vision encoder; its suffix chooses the backend',
        '视觉编码器文件，后缀决定后端',
    )
    llm_model_name: str = param(
        'Qwen2.5-0.5B-Instruct-Q4_0.gguf',
        'the GGUF text decoder; or the name of a model of config/models.yaml: decoder and encoder;'
        ' or http://HOST:PORT/v1: a server with the OpenAI protocol takes the place of both',
        'GGUF 格式的文本解码器；写 config/models.yaml 里的模型名称则同时找到它的编码器；'
        '写 http://HOST:PORT/v1 则由使用 OpenAI 协议的服务器代替两者',
    )
    llm_threads: int = setting(
        DecoderConfig,
        'n_threads',
        'threads of llama.cpp; 0: as many as others leave free, at most 8',
        'llama.cpp 的线程数；0：其他程序空出多少核心就用多少，最多 8 个',
        at_least=0,
    )
    is_shared_mem_sub: int = param(
        0,
        '1: take images from /hbmem_img (hbm_img_msgs/HbmMsg1080P, NV12)',
        '1：从 /hbmem_img 获取图像（hbm_img_msgs/HbmMsg1080P，NV12）',
        choices=(0, 1),
    )
    pre_infer: int = param(
        0,
        "1: do the image's work before the prompt comes",
        '1：在问题到来之前就处理好图像',
        choices=(0, 1),
    )
    cute_words: str = param(
        '好的，让我看看先哈',
        'filler phrases separated by ";": one is spoken as soon as a prompt is taken; empty: none',
        '以“;”分隔的应答语，收到问题后立即播报其中一句；为空则不播报',
        runtime=True,
    )
    ai_msg_pub_topic_name: str = param(
        '/llama_cpp_node',
        'final result, ai_msgs/PerceptionTargets',
        '发布最终结果的话题，ai_msgs/PerceptionTargets',
    )
    text_msg_pub_topic_name: str = param(
        '/tts_text',
        'streamed text in speakable pieces, std_msgs/String',
        '按适合朗读的片段流式发布文字的话题，std_msgs/String',
    )
    ros_img_sub_topic_name: str = param(
        '/image', 'the image topic of feed_type 1', 'feed_type 为 1 时订阅的图像话题'
    )
    ros_string_sub_topic_name: str = param(
        '/prompt_text', 'the prompt topic, std_msgs/String', '接收问题的话题，std_msgs/String'
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class PictureParameters:
    """How pictures come and when they are prepared."""

    image_transport: str = param(
        'auto',
        'type of the image topic; auto: as its publisher has it, else <topic>/compressed',
        '图像话题的类型；auto：与发布者一致，没有发布者时再找 <topic>/compressed',
        choices=('auto', 'raw', 'compressed'),
    )
    image_width: int = param(
        0, 'width of a raw NV12 file', '原始 NV12 文件的宽度', at_least=0, at_most=1 << 15
    )
    image_height: int = param(
        0, 'height of a raw NV12 file', '原始 NV12 文件的高度', at_least=0, at_most=1 << 15
    )
    image_timeout: float = param(
        5.0,
        'seconds to wait for a first or fresh frame after a prompt, then the answer is an error;'
        ' without an image for so long (1 at least) nothing is watched',
        '收到问题后等待第一帧或新一帧的秒数，超时则回答为错误；'
        '这么久（至少 1 秒）没有图像，守望也停下',
        at_least=0,
        at_most=86400,
        runtime=True,
    )
    max_image_age: float = param(
        0.0,
        'a frame received longer ago than this many seconds is not used; 0: any age',
        '收到已超过这么多秒的帧不再使用；0：不限',
        at_least=0,
        at_most=86400,
        runtime=True,
    )
    resize_mode: str = setting(
        VisionConfig,
        'resize_mode',
        'letterbox: keep the aspect, shrink if larger, top-left, zero padding; stretch',
        'letterbox：保持宽高比，过大才缩小，靠左上，其余补零；stretch：拉伸',
    )
    frame_reuse_threshold: float = setting(
        VisionConfig,
        'frame_reuse_threshold',
        'mean absolute difference (0 to 255) below which a new frame counts as the cached one;'
        ' 0: only an identical frame',
        '与缓存帧的平均绝对差（0 到 255）低于此值时视为同一帧；0：只有完全相同才算',
        at_least=0,
        at_most=255,
    )
    embedding_cache_size: int = setting(
        VisionConfig,
        'embedding_cache_size',
        'pictures whose embeddings are kept',
        '保留多少张图片的嵌入',
        at_least=1,
        at_most=1024,
    )
    wake_words: str = param(
        '你好',
        'separated by ";": with pre_infer 1 such a prompt starts preparing and is not answered;'
        ' empty: prepare while idle',
        '以“;”分隔的唤醒词：pre_infer 为 1 时只触发准备，不作回答；为空：空闲时自动准备',
    )
    pre_infer_period: float = param(
        1.0,
        'least seconds between two preparations while idle; with continuous: a frame that was'
        ' encoded ahead is replaced by a newer one after so long',
        '空闲时两次准备之间的最少秒数；continuous 时：提前编码的帧过了这么久就换成更新的帧',
        at_least=0,
        at_most=86400,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class PromptParameters:
    """Which questions are asked."""

    prompt_queue_size: int = param(
        8,
        'prompts waiting; when full the newest is refused',
        '最多排队的问题数；满了以后拒绝最新的',
        at_least=1,
        at_most=10000,
    )
    once: bool = param(
        False,
        'answer user_prompt once, on standard output as well, and exit with status 0, or 1 on'
        ' error',
        '只回答一次 user_prompt，同时写到标准输出，然后以状态 0 退出，出错时为 1',
    )
    continuous: bool = param(
        False,
        'feed_type 1: answer user_prompt again on the newest frame whenever idle',
        'feed_type 为 1 时：空闲时就对最新一帧再次回答 user_prompt',
    )
    history_turns: int = setting(
        ChatConfig,
        'history_turns',
        'turns kept in the conversation; -1: 0 for images on a topic, else all that fit n_ctx;'
        ' 0: each prompt stands alone',
        '对话保留的轮数；-1：图像来自话题时为 0，否则为 n_ctx 容得下的全部；0：每个问题各自独立',
        at_least=-1,
        runtime=True,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class WatchParameters:
    """Standing questions."""

    watch_file: str = param(
        '',
        'feed_type 1: YAML file of standing questions about what the camera sees'
        ' (config/watch.yaml is an example); empty: none',
        'feed_type 为 1 时：存放常设问题的 YAML 文件（示例见 config/watch.yaml），'
        '对摄像头画面持续提问；为空：无',
        runtime=True,
    )
    watch_period: float = param(
        0.0,
        'least seconds from one look of the standing questions to the next',
        '常设问题两次查看之间的最少秒数',
        at_least=0,
        at_most=86400,
        runtime=True,
    )
    watch_max_load: float = param(
        0.5,
        'largest share of the time that standing questions may take of the processor, what reads'
        ' and encodes the frames included',
        '常设问题最多可占用处理器的时间比例，包括读取和编码图像',
        at_least=0.01,
        at_most=1,
        runtime=True,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class RemoteParameters:
    """A server that stands in for the models."""

    remote_model: str = setting(
        RemoteConfig,
        'model',
        'name of the model on the server that llm_model_name is the address of; empty: the first'
        ' that it lists; its token belongs into $OPENAI_API_KEY',
        'llm_model_name 为服务器地址时，要使用的模型名称；为空：服务器列出的第一个；'
        '令牌写在 $OPENAI_API_KEY 里',
    )
    remote_timeout: float = setting(
        RemoteConfig,
        'timeout',
        'seconds without a word of that server after which a question counts as failed',
        '该服务器超过这么多秒没有任何回应，问题即视为失败',
        at_least=0.1,
        at_most=86400,
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class OverlayParameters:
    """Pictures with answers."""

    publish_overlay: bool = param(
        False,
        'publish the picture that was asked about on ~/overlay/compressed and ~/overlay, with'
        ' question and answer beneath it',
        '在 ~/overlay/compressed 和 ~/overlay 上发布所问的图片，下方写有问题和回答',
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ServerParameters:
    """The HTTP server."""

    http_port: int = param(
        0,
        'port of the HTTP server (OpenAI protocol, page, MCP, metrics); 0: none',
        'HTTP 服务器的端口（OpenAI 协议、网页、MCP、指标）；0：不启动',
        at_least=0,
        at_most=65535,
    )
    http_host: str = param(
        '127.0.0.1',
        'address that the HTTP server listens on; beyond this machine it needs http_token_file',
        'HTTP 服务器监听的地址；要让其他机器访问，必须设置 http_token_file',
    )
    http_token_file: str = param(
        '',
        'file with the token that HTTP clients must bring (Authorization: Bearer)',
        '存放令牌的文件，HTTP 客户端必须携带该令牌（Authorization: Bearer）',
    )
