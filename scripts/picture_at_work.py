"""Draw docs/images/at_work.png: the node is asked about config/image2.jpg, over ROS 2 topics.

Words and times are those of the run. After `make demo`, with the font of fonts-noto-cjk:

    .venv/bin/pip install pillow && .venv/bin/python scripts/picture_at_work.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import rclpy
from PIL import Image, ImageDraw, ImageFont
from rclpy.qos import QoSProfile
from std_msgs.msg import String

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = [sys.executable, '-m', 'hobot_llamacpp_py']
CAMERA = [sys.executable, '-m', 'hobot_llamacpp_py.tools.camera', 'config/image2.jpg']
PARAMETERS = {
    'feed_type': 1,
    'model_file_name': 'config/nano_internvl_vit.onnx',
    'llm_model_name': 'config/nano_internvl.gguf',
    'temperature': 0,
    'pre_infer': 1,
    'wake_words': "''",
}
QUESTIONS = ('Describe the image.', 'Where is the circle?', '星形是什么颜色？')
FONT = '/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc'
SIMPLIFIED_CHINESE = 2  # of the fonts in the file
SCALE = 2  # pixels for each of the picture's 900
INK, GREY, BLUE, PALE, LINE = '#1f2328', '#656d76', '#0969da', '#f3f5f7', '#d1d9e0'


def talk() -> Iterator[tuple[str, str, float, float]]:
    """Yield each question, its answer, and the milliseconds to the first word and to the last."""
    rclpy.init()
    node = rclpy.create_node('picture_at_work')
    pieces: list[tuple[float, str]] = []
    answers: list[str] = []
    node.create_subscription(
        String,
        '/llamacpp_node/partial',
        lambda message: pieces.append((time.monotonic(), message.data)),
        QoSProfile(depth=1000),
    )
    node.create_subscription(
        String, '/llamacpp_node/text', lambda message: answers.append(message.data), 10
    )
    prompts = node.create_publisher(String, '/prompt_text', 10)

    def wait(is_over) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + 60
        while not is_over():
            rclpy.spin_once(node, timeout_sec=0.1)
            assert time.monotonic() < deadline, 'the node does not answer'

    wait(lambda: prompts.get_subscription_count() and node.count_publishers('/image'))
    for question in ('What color is the star?', *QUESTIONS):  # the first one finds all asleep
        del pieces[:], answers[:]
        until = time.monotonic() + 2  # the node is idle and has prepared the newest frame
        wait(lambda until=until: time.monotonic() > until)
        asked = time.monotonic()
        prompts.publish(String(data=question))
        wait(lambda: answers)
        first, last = (1e3 * (pieces[i][0] - asked) for i in (0, -1))
        if question in QUESTIONS:
            yield question, answers[0], first, last
    node.destroy_node()
    rclpy.shutdown()


def draw(turns: list[tuple[str, str, float, float]], font_file: str) -> Image.Image:
    """Put the picture on the left and the conversation on the right."""

    def font(size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(font_file, size * SCALE, index=SIMPLIFIED_CHINESE)

    text, small = font(15), font(11)
    sheet = Image.new('RGB', (900 * SCALE, 372 * SCALE), 'white')
    pen = ImageDraw.Draw(sheet)

    def write(x: float, y: float, words: str, face: ImageFont.FreeTypeFont, ink: str) -> None:
        pen.text((x * SCALE, y * SCALE), words, ink, face)

    def lines(words: str, width: int) -> list[str]:
        found = ['']
        for word in words.replace('，', '， ').split(' '):
            longer = f'{found[-1]} {word}'.strip()
            if pen.textlength(longer, text) > width * SCALE:
                found.append(word)
            else:
                found[-1] = longer
        return found

    def bubble(y: float, words: str, fill: str, ink: str, right: bool) -> float:
        rows = lines(words, 360)
        width = max(pen.textlength(row, text) for row in rows) / SCALE + 24
        left, height = (880 - width if right else 470), 22 * len(rows) + 12
        box = [left * SCALE, y * SCALE, (left + width) * SCALE, (y + height) * SCALE]
        pen.rounded_rectangle(box, 12 * SCALE, fill)
        for i, row in enumerate(rows):
            write(left + 12, y + 5 + 22 * i, row, text, ink)
        return y + height

    camera = Image.open(ROOT / 'config' / 'image2.jpg').resize((420 * SCALE, 315 * SCALE))
    sheet.paste(camera, (20 * SCALE, 20 * SCALE))
    pen.rectangle([20 * SCALE, 20 * SCALE, 440 * SCALE, 335 * SCALE], outline=LINE, width=SCALE)
    write(20, 341, '/image', small, GREY)
    y = 18.0
    for question, answer, first, last in turns:
        y = bubble(y, question, BLUE, 'white', right=True) + 6
        y = bubble(y, answer, PALE, INK, right=False) + 1
        write(482, y, f'first word after {first:.0f} ms, all after {last:.0f} ms', small, GREY)
        y += 23
    caption = f'built-in model (6 MB) with pre_infer, {machine()}'
    write(470, 341, caption, small, GREY)
    return sheet


def machine() -> str:
    """Name the processor."""
    lines = Path('/proc/cpuinfo').read_text('utf-8').splitlines()
    name = next(line.partition(': ')[2] for line in lines if line.startswith('model name'))
    return f'{os.cpu_count()} cores of an {name}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--font', default=FONT, help='%(default)s')
    options = parser.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    rules = [word for item in PARAMETERS.items() for word in ('-p', '{}:={}'.format(*item))]
    running = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        for command in (CAMERA, [*PACKAGE, '--ros-args', *rules])
    ]
    try:
        turns = list(talk())
    finally:
        for process in running:
            process.terminate()
    out = ROOT / 'docs' / 'images' / 'at_work.png'
    draw(turns, options.font).quantize(128).save(out, optimize=True)
    print('\n'.join(map(str, turns)))


if __name__ == '__main__':
    main()
