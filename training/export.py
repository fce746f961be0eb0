"""Export to what a robot runs: the encoder as ONNX, the decoder as GGUF."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from training.model import Decoder, DecoderConfig, Encoder, NanoVLM
from training.pictures import GRID, INPUT
from training.tokenizer import Tokenizer

__all__ = [
    'CHAT_TEMPLATES',
    'export',
    'export_decoder',
    'export_gguf',
    'export_onnx',
    'load_decoder',
]

CHAT_TEMPLATES = {
    'internvl': (
        '{% for message in messages %}'
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        '{% endfor %}'
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # An answer begins with a space of its own, so that none follows `Assistant:`.
    'smolvlm': (
        "{{ '<|im_start|>' }}"
        '{% for message in messages %}'
        "{{ message['role'] | capitalize }}"
        "{{ ':' if message['role'] == 'assistant' else ': ' }}"
        "{{ message['content'] + '<end_of_utterance>\n' }}"
        '{% endfor %}'
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}


def export(model: NanoVLM, tokenizer: Tokenizer, out: Path) -> list[Path]:
    """Write both files of a model, each of them whole or not at all."""
    path = out / f'nano_{tokenizer.family}_vit.onnx'
    out.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name('.part-' + path.name)
    export_onnx(model.encoder, temporary)
    temporary.replace(path)
    return [path, export_decoder(model.decoder, tokenizer, out)]


def export_decoder(decoder: Decoder, tokenizer: Tokenizer, out: Path) -> Path:
    """Write a model's decoder, whole or not at all."""
    path = out / f'nano_{tokenizer.family}.gguf'
    temporary = path.with_name('.part-' + path.name)
    export_gguf(decoder, tokenizer, temporary)
    temporary.replace(path)
    return path


# ---------------------------------------------------------------- ONNX


class _Graph:
    """Builds a plain ONNX graph: convolutions with the batch norms folded in."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def gelu(self, x: str) -> str:
        """Add the exact GELU, 0.5 x (1 + erf(x / sqrt 2))."""
        y = self.add('Erf', [self.add('Mul', [x, 'inverse_sqrt_2'], f'{x}_scaled')], f'{x}_erf')
        y = self.add('Mul', [x, self.add('Add', [y, 'one'], f'{x}_gate')], f'{x}_double')
        return self.add('Mul', [y, 'half'], f'{x}_gelu')


def export_onnx(encoder: Encoder, path: Path) -> None:
    """Write pixel_values [1, 3, 224, 224] -> image_embeds [1, 64, width], opset 17."""
    graph, width = _Graph(), encoder.norm.weight.shape[0]
    for name, value in (('inverse_sqrt_2', 0.5**0.5), ('one', 1.0), ('half', 0.5)):
        graph.constant(name, np.float32(value).reshape(()))
    state = {name: value.detach().double() for name, value in encoder.state_dict().items()}

    x = 'pixel_values'
    blocks = [(f'stem.{i}', block) for i, block in enumerate(encoder.stem)]
    for name, block in [*blocks, ('residual', encoder.residual)]:
        scale = (
            state[f'{name}.norm.weight']
            / (state[f'{name}.norm.running_var'] + block.norm.eps).sqrt()
        )
        kernel = (state[f'{name}.conv.weight'] * scale[:, None, None, None]).float().numpy()
        bias = state[f'{name}.norm.bias'] - state[f'{name}.norm.running_mean'] * scale
        pads = graph.constant(f'{name}.pads', np.array([0, 0, 1, 1] * 2, np.int64) * block.pad)
        y = graph.add('Pad', [x, pads], f'{name}.pad', mode='edge')
        y = graph.add(
            'Conv',
            [
                y,
                graph.constant(f'{name}.weight', kernel),
                graph.constant(f'{name}.bias', bias.float().numpy()),
            ],
            f'{name}.conv',
            strides=list(block.conv.stride),
        )
        y = graph.gelu(y)
        x = y if name != 'residual' else graph.add('Add', [x, y], 'features')

    rows = graph.constant('rows', np.array([1, -1, GRID * GRID], np.int64))
    x = graph.add('Reshape', [x, rows], 'flat')
    x = graph.add('Transpose', [x], 'tokens', perm=[0, 2, 1])
    for name in ('up', 'down'):
        weight = graph.constant(f'{name}.weight', state[f'{name}.weight'].float().numpy().T)
        bias = graph.constant(f'{name}.bias', state[f'{name}.bias'].float().numpy())
        x = graph.add('Add', [graph.add('MatMul', [x, weight], f'{name}.product'), bias], name)
        x = graph.gelu(x) if name == 'up' else x
    graph.add(
        'LayerNormalization',
        [
            x,
            graph.constant('norm.weight', state['norm.weight'].float().numpy()),
            graph.constant('norm.bias', state['norm.bias'].float().numpy()),
        ],
        'image_embeds',
        axis=-1,
        epsilon=encoder.norm.eps,
    )

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            'nano_vit',
            [
                helper.make_tensor_value_info(
                    'pixel_values', TensorProto.FLOAT, [1, 3, INPUT, INPUT]
                )
            ],
            [
                helper.make_tensor_value_info(
                    'image_embeds', TensorProto.FLOAT, [1, GRID * GRID, width]
                )
            ],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid('', 17)],
        ir_version=8,
        producer_name='training.export',
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


# ---------------------------------------------------------------- GGUF


_GGUF_NAMES = {
    'attention_norm': 'attn_norm',
    'q': 'attn_q',
    'k': 'attn_k',
    'v': 'attn_v',
    'o': 'attn_output',
    'ff_norm': 'ffn_norm',
    'gate': 'ffn_gate',
    'up': 'ffn_up',
    'down': 'ffn_down',
}


def _halve(weight: Tensor, heads: int) -> Tensor:
    """Undo `_interleave`."""
    rows = weight.shape[0]
    pairs = weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _interleave(weight: Tensor, heads: int) -> Tensor:
    """Reorder a q or k weight from the NEOX to the interleaved RoPE of the llama architecture."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def _gguf_name(key: str) -> str:
    """Return what GGUF calls a tensor of the decoder."""
    if key in ('embedding.weight', 'norm.weight'):
        return {'embedding.weight': 'token_embd.weight', 'norm.weight': 'output_norm.weight'}[key]
    _, layer, module, kind = key.split('.')
    return f'blk.{layer}.{_GGUF_NAMES[module]}.{kind}'


def load_decoder(decoder: Decoder, tokenizer: Tokenizer, reader: gguf.GGUFReader) -> None:
    """Read a decoder that `export_gguf` wrote."""
    tensors, state = {tensor.name: tensor for tensor in reader.tensors}, {}
    for key, value in decoder.state_dict().items():
        tensor = torch.from_numpy(tensors[_gguf_name(key)].data.astype(np.float32))
        heads = _rotated_heads(key, decoder.config, tokenizer)
        state[key] = (_halve(tensor, heads) if heads else tensor).reshape(value.shape)
    decoder.load_state_dict(state)


def _rotated_heads(key: str, config: DecoderConfig, tokenizer: Tokenizer) -> int:
    """Return the heads of a tensor whose rows the architecture wants in another order, else 0."""
    module = key.split('.')[2:3]
    if tokenizer.family == 'internvl' or module not in (['q'], ['k']):
        return 0
    return config.heads if module == ['q'] else config.kv_heads


def export_gguf(decoder: Decoder, tokenizer: Tokenizer, path: Path) -> None:
    """Write the decoder: f16 matrices, f32 norms and biases, the tokenizer, a chat template."""
    config, family = decoder.config, tokenizer.family
    qwen2 = family == 'internvl'
    writer = gguf.GGUFWriter(path, 'qwen2' if qwen2 else 'llama')
    writer.add_name(f'nano {family}')
    writer.add_license('apache-2.0')
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(len(tokenizer))
    if not qwen2:
        writer.add_rope_dimension_count(config.head_size)

    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('qwen2')
    writer.add_token_list([*tokenizer.plain_tokens, *tokenizer.special_tokens])
    writer.add_token_types(
        [gguf.TokenType.NORMAL] * len(tokenizer.plain_tokens)
        + [
            gguf.TokenType.USER_DEFINED if token == '<|custom|>' else gguf.TokenType.CONTROL
            for token in tokenizer.special_tokens
        ]
    )
    writer.add_token_merges(tokenizer.merges)
    writer.add_eos_token_id(tokenizer.end_of_answer)
    writer.add_pad_token_id(tokenizer.special('<|endoftext|>'))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATES[family])

    for key, value in decoder.state_dict().items():
        value = value.detach().float()
        if heads := _rotated_heads(key, config, tokenizer):
            value = _interleave(value, heads)
        matrix = value.ndim == 2
        writer.add_tensor(
            _gguf_name(key), value.numpy().astype(np.float16 if matrix else np.float32)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
