"""An mmproj file gives the embeddings of its ViT, for exactly the picture that we fitted."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from llama_cpp import mtmd_cpp as mtmd
from mmproj_files import PROJECTORS, SIZES, random_tensors, reference, write_random
from nano import CONFIG, MODELS, ROOT, draw_scene, logits_of, request_of

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Chat, Engine, Turn
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.families import FAMILIES, INTERNVL, SMOLVLM2
from hobot_llamacpp_py.vision.encoder import CpuEncoder
from hobot_llamacpp_py.vision.image_file import read_image
from hobot_llamacpp_py.vision.open import open_encoder
from hobot_llamacpp_py.vision.preprocess import normalise
from hobot_llamacpp_py.vision.tensors import input_spec
from training.evaluate import measure_files
from training.mmproj import VitSizes, write_mmproj

DECODERS = {'internvl': MODELS['internvl'][1], 'idefics3': MODELS['smolvlm'][1]}
SETTINGS = DecoderConfig(n_ctx=512, n_threads=1)


@pytest.fixture(params=sorted(PROJECTORS))
def projector(request: pytest.FixtureRequest) -> str:
    """Both kinds of projector, one after the other."""
    return str(request.param)


def picture(width: int = SIZES.image, height: int = SIZES.image) -> np.ndarray:
    """Return a BGR picture that looks different wherever it is cut, turned or resampled."""
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(path: Path, projector: str, bgr: np.ndarray) -> np.ndarray:
    """Encode one picture with an encoder of its own."""
    encoder = open_encoder(path, PROJECTORS[projector])
    embeddings = encoder.encode(bgr)
    encoder.close()
    encoder.close()
    return embeddings


@pytest.mark.parametrize('matrices', ['F32', 'F16', 'Q8_0'])
def test_gives_the_embeddings_of_the_vit(tmp_path: Path, projector: str, matrices: str) -> None:
    """They are what the ViT makes of our own pixel values, computed in numpy."""
    path, family = tmp_path / 'mmproj.gguf', PROJECTORS[projector]
    tensors = write_random(path, projector, matrices=GGMLQuantizationType[matrices])
    encoder = open_encoder(path, family)
    assert encoder.input_size == (84, 84)
    assert (encoder.n_tokens, encoder.n_embd) == (9, 128)

    spec = input_spec([1, 3, 84, 84], family, path)
    for bgr in (picture(), picture(84, 50), picture(31, 84)):
        expected = reference(tensors, normalise(bgr, spec)[0])
        actual = encoder.encode(bgr)
        assert (actual.shape, actual.dtype) == ((9, 128), np.float32)
        tolerance = 0.1 if matrices == 'Q8_0' else 0.01
        np.testing.assert_allclose(actual, expected, atol=tolerance * expected.std())


def test_picture_is_never_resampled(tmp_path: Path) -> None:
    """A file that asks for tiles of an enlarged picture gives what one without tiles gives."""
    plain, tiled = tmp_path / 'plain.gguf', tmp_path / 'tiled.gguf'
    write_random(plain, 'idefics3')
    write_random(tiled, 'idefics3', longest_edge=4 * SIZES.image)
    for bgr in (picture(), picture(84, 40)):
        np.testing.assert_array_equal(
            encode(tiled, 'idefics3', bgr), encode(plain, 'idefics3', bgr)
        )


def test_equals_llama_cpps_own_way(tmp_path: Path, projector: str) -> None:
    """Embeddings are those of llama.cpp's helpers, and so is what the decoder makes of them."""
    path, bgr = tmp_path / 'mmproj.gguf', picture()
    # Tiles of the picture's own size, which the helpers do not resample either.
    write_random(path, projector, longest_edge=84 if projector == 'idefics3' else None)
    embeddings = encode(path, projector, bgr)

    with Decoder(DECODERS[projector], SETTINGS) as decoder:
        for at, segment in ((0, [1, 2, 3]), (3, embeddings), (12, [4])):
            decoder.prefill(segment, at)
        logits = logits_of(decoder)
        decoder.trim(3)

        params = mtmd.mtmd_context_params_default()
        params.n_threads = 1
        context = mtmd.mtmd_init_from_file(os.fsencode(path), decoder._model, params)
        rgb = np.ascontiguousarray(bgr[:, :, ::-1]).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(mtmd.mtmd_bitmap_init(84, 84, rgb))
        marker, chunks = mtmd.mtmd_default_marker(), mtmd.mtmd_input_chunks_init()
        text = mtmd.mtmd_input_text(marker, len(marker), False, True)
        assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
        every = [
            mtmd.mtmd_input_chunks_get(chunks, i)
            for i in range(mtmd.mtmd_input_chunks_size(chunks))
        ]
        images = [
            chunk
            for chunk in every
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE
        ]
        assert mtmd.mtmd_encode_chunk(context, images[0]) == 0
        output = mtmd.mtmd_get_output_embd(context)
        np.testing.assert_array_equal(np.ctypeslib.as_array(output, embeddings.shape), embeddings)
        n_past = llama_cpp.llama_pos()
        code = mtmd.mtmd_helper_eval_chunk_single(
            context, decoder.context, images[0], 3, 0, 512, False, ctypes.byref(n_past)
        )
        assert (code, n_past.value) == (0, 3 + 9)
        decoder.prefill([4], n_past.value)
        np.testing.assert_array_equal(logits_of(decoder), logits)

        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_bitmap_free(bitmaps[0])
        mtmd.mtmd_free(context)


def test_the_number_of_threads_can_change(tmp_path: Path, projector: str) -> None:
    """Told of another number of threads, the encoder's process goes on with it."""
    path = tmp_path / 'mmproj.gguf'
    write_random(path, projector)
    encoder = open_encoder(path, PROJECTORS[projector], EncoderConfig(n_threads=1))
    assert isinstance(encoder, CpuEncoder)
    before = encoder.encode(picture())
    for n in (2, 2, 1):
        encoder.use_threads(n)
        tolerance = 1e-3 * before.std()
        np.testing.assert_allclose(encoder.encode(picture()), before, atol=tolerance)
    encoder.close()


def test_answers_with_reuse(tmp_path: Path, projector: str) -> None:
    """In an engine the picture is decoded once; a reused picture changes no answer."""
    path = tmp_path / 'mmproj-random.gguf'
    write_random(path, projector)

    def ask(engine: Engine, *turns: Turn) -> tuple[list[int], int]:
        answer = engine.generate(
            request_of(*turns, max_tokens=8, sampling=SamplingConfig(temperature=0.0))
        )
        ''.join(answer)
        return answer.tokens, answer.stats.reused

    def open_engine() -> Engine:
        return Engine.open(
            DECODERS[projector], path, family=PROJECTORS[projector], config=SETTINGS
        )

    bgr = draw_scene(3)[1]
    with open_engine() as warm, open_engine() as cold:
        shown = warm.picture(bgr)
        first, reused = ask(warm, Turn('What is this?', shown))
        assert reused == 0
        again, reused = ask(warm, Turn('What is this?', warm.picture(bgr)))
        assert again == first
        assert reused > 9  # the picture, and what stands before it
        turns = (Turn('What is this?', shown, tuple(first)), Turn('Where is it?'))
        second, reused = ask(warm, *turns)
        assert reused > 9 + len(first)
        assert second == ask(cold, *turns)[0]
        other, _ = ask(warm, Turn('What is this?', warm.picture(255 - bgr)))
        assert other == ask(cold, Turn('What is this?', cold.picture(255 - bgr)))[0]


@pytest.mark.parametrize(
    ('sizes', 'words'),
    [
        (replace(SIZES, image=90), 'input of 90 pixels in patches of 14'),
        (replace(SIZES, image=112), 'does not fit 36 positions'),
        (replace(SIZES, patch=0), 'in patches of 0'),
        (replace(SIZES, merge=4), '4x4 are merged'),
    ],
)
def test_metadata_does_not_fit(tmp_path: Path, sizes: VitSizes, words: str) -> None:
    """Where metadata and tensors do not fit, one line says which."""
    path = tmp_path / 'mmproj.gguf'
    write_mmproj(path, 'idefics3', sizes, random_tensors('idefics3'))
    with pytest.raises(ModelFileError, match=words):
        open_encoder(path, SMOLVLM2)


def test_projector_is_not_supported(tmp_path: Path) -> None:
    """A file with another projector is refused with those that are supported."""
    path = tmp_path / 'mmproj.gguf'
    write_random(path, 'idefics3')
    path.write_bytes(path.read_bytes().replace(b'idefics3', b'resample'))
    with pytest.raises(ModelFileError, match='type resample; supported are internvl .* idefics3'):
        open_encoder(path, SMOLVLM2)


def test_family_must_be_the_projectors(tmp_path: Path, projector: str) -> None:
    """A file of another family is refused, with the one that it is of."""
    path, right = tmp_path / 'mmproj.gguf', PROJECTORS[projector]
    write_random(path, projector)
    other = next(family for family in FAMILIES.values() if family != right)
    words = f'is a vision encoder of {right.name}, not of {other.name}'
    with pytest.raises(ModelFileError, match=words) as caught:
        open_encoder(path, other)
    assert (caught.value.setting, caught.value.value) == ('family', right.name)


@pytest.mark.parametrize(
    'missing',
    [
        *('v.position_embd.weight', 'v.patch_embd.weight', 'v.class_embd'),
        *('v.blk.1.ffn_up.weight', 'v.blk.1.attn_q.weight'),
    ],
)
def test_tensor_is_missing(tmp_path: Path, missing: str) -> None:
    """A file without one of its tensors is refused with the tensor's name."""
    path, tensors = tmp_path / 'mmproj.gguf', random_tensors('internvl')
    del tensors[missing]
    write_mmproj(path, 'internvl', SIZES, tensors)
    with pytest.raises(ModelFileError, match=re.escape(missing)):
        open_encoder(path, INTERNVL)


@pytest.mark.parametrize('share', [0.0, 0.001, 0.01, 0.03, 0.5, 0.99])
def test_file_is_cut_off(tmp_path: Path, share: float) -> None:
    """What a broken download leaves is never taken for a model."""
    path = tmp_path / 'mmproj.gguf'
    write_random(path, 'internvl')
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelFileError, match='is not a GGUF file|is damaged|is cut off'):
        open_encoder(path, INTERNVL)


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('mmproj-nowhere.gguf', 'mmproj-nowhere.gguf: no such file'),
        (CONFIG / 'nano_internvl.gguf', 'of architecture qwen2, not an mmproj file'),
        (CONFIG / 'image1.png', 'is not a GGUF file'),
        (CONFIG, 'config: no such file'),
    ],
)
def test_file_is_no_encoder(path: Path, words: str) -> None:
    """A wrong path is answered with what the file is."""
    with pytest.raises(ModelFileError, match=words):
        open_encoder(path, INTERNVL, EncoderConfig(backend='mmproj'))


@pytest.fixture(scope='module')
def built_in() -> Iterator[Engine]:
    """The SmolVLM nano model with the ViT of config/."""
    with Engine.open(
        DECODERS['idefics3'],
        CONFIG / 'mmproj-nano_smolvlm.gguf',
        family=SMOLVLM2,
        config=DecoderConfig(n_ctx=1024, n_threads=1),
    ) as engine:
        yield engine


def test_built_in_vit_sees(built_in: Engine) -> None:
    """The built-in mmproj file describes the sample picture rightly."""
    chat = Chat(built_in, ChatConfig(sampling=SamplingConfig(temperature=0.0)))
    shown = built_in.picture(read_image(CONFIG / 'image2.jpg'))
    answers = [''.join(chat.ask('Describe the image.', shown)), ''.join(chat.ask('圆形在哪里？'))]
    assert answers == [
        'There is a yellow star at the top, a red circle on the left and a blue square on the'
        ' right.',
        '圆形在左边。',
    ]


def test_built_in_vit_is_right_about_scenes(built_in: Engine) -> None:
    """Of all documented questions about pictures that were drawn elsewhere, few go wrong."""
    tally = measure_files(built_in, ROOT / 'test' / 'images')
    for language in ('en', 'zh'):
        assert tally.share(f'{language}, drawn elsewhere') >= 0.95, tally.misses


def test_width_must_be_the_decoders(tmp_path: Path) -> None:
    """Embeddings of another width than the decoder's are refused at start."""
    path, sizes = tmp_path / 'mmproj.gguf', replace(SIZES, projection=64)
    write_mmproj(path, 'internvl', sizes, random_tensors('internvl', sizes))
    with pytest.raises(ModelFileError, match='width 64.*takes 128'):
        Engine.open(DECODERS['internvl'], path, family=INTERNVL, config=SETTINGS)


SCRIPT = """
import sys, numpy
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.open import open_encoder
try:
    print(open_encoder(sys.argv[1], INTERNVL).encode(numpy.zeros((84, 84, 3), numpy.uint8)).shape)
except ModelFileError as error:
    print(error)
"""


def run_alone(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Open an encoder and encode with it in a process that has no decoder."""
    return subprocess.run(
        [sys.executable, '-c', SCRIPT, path],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_says_nothing(tmp_path: Path) -> None:
    """Without a decoder in the process, nothing of llama.cpp's chatter reaches the terminal."""
    path = tmp_path / 'mmproj.gguf'
    write_random(path, 'internvl')
    result = run_alone(path)
    assert (result.stdout, result.stderr) == ('(9, 128)\n', '')


def test_library_is_missing(tmp_path: Path) -> None:
    """A llama-cpp-python that was built without libmtmd is told from a bad file."""
    path = tmp_path / 'mmproj.gguf'
    write_random(path, 'internvl')
    result = run_alone(path, MTMD_CPP_LIB=str(tmp_path))
    assert 'needs libmtmd, which is missing from the installed llama-cpp-python' in result.stdout
    assert result.stdout.count('\n') == 1
