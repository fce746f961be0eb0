"""The picture world of the nano models: scenes, how they are drawn, what is asked and answered.

A scene holds one to three shapes, or none. No two have the same kind, no two the same place;
places are relative to the picture. This module needs numpy and OpenCV only.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np

KINDS = ('circle', 'square', 'triangle', 'star')
COLORS = ('red', 'green', 'blue', 'yellow', 'purple', 'orange')
PLACES = ('top', 'left', 'center', 'right', 'bottom')  # the reading order
LANGUAGES = ('en', 'zh')
QUESTION_KINDS = ('describe', 'count', 'color', 'where')


@dataclass(frozen=True)
class Shape:
    """One shape: what it is, its colour, its place in the picture."""

    kind: str
    color: str
    place: str


@dataclass(frozen=True)
class Scene:
    """The shapes of one picture, in reading order."""

    shapes: tuple[Shape, ...]

    def __post_init__(self) -> None:
        ordered = sorted(self.shapes, key=lambda shape: PLACES.index(shape.place))
        object.__setattr__(self, 'shapes', tuple(ordered))

    def find(self, kind: str) -> Shape | None:
        """Return the shape of this kind, or None."""
        return next((shape for shape in self.shapes if shape.kind == kind), None)

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination (one scene in ten, not the empty one)."""
        if not self.shapes:
            return False
        key = ';'.join(f'{s.kind},{s.color},{s.place}' for s in self.shapes)
        return zlib.crc32(key.encode()) % 10 == 0


def random_scene(rng: np.random.Generator, empty: float = 0.0) -> Scene:
    """Draw a scene of one to three shapes, three being the most frequent, or an empty one."""
    if empty and rng.random() < empty:
        return Scene(())
    count = int(rng.choice((1, 2, 3), p=(0.2, 0.35, 0.45)))
    kinds = rng.choice(KINDS, count, replace=False)
    places = rng.choice(PLACES, count, replace=False)
    colors = rng.choice(COLORS, count)
    return Scene(
        tuple(Shape(str(k), str(c), str(p)) for k, c, p in zip(kinds, colors, places, strict=True))
    )


# ---------------------------------------------------------------- questions and answers

KIND_WORDS = {
    'en': {kind: kind for kind in KINDS},
    'zh': {'circle': '圆形', 'square': '正方形', 'triangle': '三角形', 'star': '星形'},
}
COLOR_WORDS = {
    'en': {color: color for color in COLORS},
    'zh': {
        'red': '红色',
        'green': '绿色',
        'blue': '蓝色',
        'yellow': '黄色',
        'purple': '紫色',
        'orange': '橙色',
    },
}
PLACE_WORDS = {
    'en': {
        'top': 'at the top',
        'left': 'on the left',
        'center': 'in the center',
        'right': 'on the right',
        'bottom': 'at the bottom',
    },
    'zh': {'top': '顶部', 'left': '左边', 'center': '中间', 'right': '右边', 'bottom': '底部'},
}
NUMBER_WORDS = {'en': ('zero', 'one', 'two', 'three'), 'zh': ('零', '一', '两', '三')}

# The first phrase of each list is the documented one; the others are asked the same way.
PHRASES = {
    ('describe', 'en'): (
        'Describe the image',
        'Describe this image',
        'Describe the picture',
        'Describe this picture',
        'Please describe the image',
        'Please describe this picture',
        'What is in the picture',
        'What is in the image',
        'What is in this picture',
        'What is in this image',
        'What do you see',
        'What can you see',
        "What's in the image",
    ),
    ('describe', 'zh'): (
        '描述一下这张图片',
        '描述这张图片',
        '请描述这张图片',
        '请描述一下这张图片',
        '描述图片',
        '这张图片里有什么',
        '图片里有什么',
        '图中有什么',
        '你看到了什么',
    ),
    ('count', 'en'): (
        'How many shapes are there',
        'How many shapes are in the picture',
        'How many shapes are in the image',
        'How many shapes do you see',
        'Count the shapes',
    ),
    ('count', 'zh'): (
        '有几个图形',
        '图中有几个图形',
        '图片里有几个图形',
        '有多少个图形',
        '一共有几个图形',
    ),
    ('color', 'en'): (
        'What color is the {}',
        'What colour is the {}',
        'Which color is the {}',
        'What is the color of the {}',
        'What is the colour of the {}',
    ),
    ('color', 'zh'): ('{}是什么颜色', '{}是什么颜色的', '{}的颜色是什么', '图中的{}是什么颜色'),
    ('where', 'en'): (
        'Where is the {}',
        'Where is the {} in the picture',
        'Where is the {} in the image',
        "Where's the {}",
    ),
    ('where', 'zh'): ('{}在哪里', '{}在哪儿', '{}在什么位置', '{}在图片的哪里'),
}
_ENDINGS = {
    ('describe', 'en'): ('.',),
    ('describe', 'zh'): ('。', '.'),
    ('count', 'en'): ('?',),
    ('count', 'zh'): ('？',),
    ('color', 'en'): ('?',),
    ('color', 'zh'): ('？',),
    ('where', 'en'): ('?',),
    ('where', 'zh'): ('？',),
}
_OTHER_ENDINGS = {'en': ('.', '?', '', '', '!'), 'zh': ('。', '？', '?', '.', '', '', '！')}


@dataclass(frozen=True)
class Span:
    """The characters of an answer that speak of one shape."""

    start: int
    stop: int
    shape: Shape


@dataclass(frozen=True)
class Answer:
    """An answer's text and which parts of it speak of which shape."""

    text: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Question:
    """One question about a scene; `kind` is the shape asked for, if one is."""

    type: str
    language: str
    text: str
    kind: str | None = None

    def answer(self, scene: Scene) -> Answer:
        """Return the one right answer for a scene."""
        if self.type == 'describe':
            return describe(scene, self.language)
        if self.type == 'count':
            return count(scene, self.language)
        assert self.kind is not None
        ask = color if self.type == 'color' else where
        return ask(scene, self.kind, self.language)


def describe(scene: Scene, language: str) -> Answer:
    """Name every shape with its colour and place, in reading order."""
    if not scene.shapes:
        return Answer('There is nothing.' if language == 'en' else '什么都没有。')
    text, spans = ('There is ' if language == 'en' else ''), []
    for index, shape in enumerate(scene.shapes):
        noun = KIND_WORDS[language][shape.kind]
        tint = COLOR_WORDS[language][shape.color]
        place = PLACE_WORDS[language][shape.place]
        if language == 'en':
            if index:
                text += ' and ' if index == len(scene.shapes) - 1 else ', '
            item = f'{"an" if tint[0] == "o" else "a"} {tint} {noun} {place}'
        else:
            text += '，' if index else ''
            item = f'{place}有一个{tint}的{noun}'
        spans.append(Span(len(text), len(text) + len(item), shape))
        text += item
    return Answer(text + ('.' if language == 'en' else '。'), tuple(spans))


def count(scene: Scene, language: str) -> Answer:
    """Say how many shapes there are."""
    number = len(scene.shapes)
    word = NUMBER_WORDS[language][number]
    if not number:
        return Answer('There are no shapes.' if language == 'en' else '没有图形。')
    if language == 'zh':
        return Answer(f'有{word}个图形。')
    return Answer('There is one shape.' if number == 1 else f'There are {word} shapes.')


def color(scene: Scene, kind: str, language: str) -> Answer:
    """Say which colour the shape of this kind has, or that there is none."""
    shape, noun = scene.find(kind), KIND_WORDS[language][kind]
    if shape is None:
        return absent(kind, language)
    head = f'The {noun} is ' if language == 'en' else f'{noun}是'
    return _about(head, COLOR_WORDS[language][shape.color], shape, language)


def where(scene: Scene, kind: str, language: str) -> Answer:
    """Say at which place the shape of this kind is, or that there is none."""
    shape, noun = scene.find(kind), KIND_WORDS[language][kind]
    if shape is None:
        return absent(kind, language)
    head = f'The {noun} is ' if language == 'en' else f'{noun}在'
    return _about(head, PLACE_WORDS[language][shape.place], shape, language)


def absent(kind: str, language: str) -> Answer:
    """Say that there is no shape of this kind."""
    noun = KIND_WORDS[language][kind]
    return Answer(f'There is no {noun}.' if language == 'en' else f'没有{noun}。')


def _about(head: str, word: str, shape: Shape, language: str) -> Answer:
    span = Span(len(head), len(head) + len(word), shape)
    return Answer(head + word + ('.' if language == 'en' else '。'), (span,))


def ask(type_: str, language: str, kind: str | None = None) -> Question:
    """Return the documented question of this type."""
    text = PHRASES[type_, language][0] + _ENDINGS[type_, language][0]
    return Question(type_, language, text.format(_noun(kind, language)), kind)


def all_questions(language: str) -> list[Question]:
    """Return the documented questions, every shape asked for, in a fixed order."""
    questions = [ask('describe', language), ask('count', language)]
    for type_, kind in itertools.product(('color', 'where'), KINDS):
        questions.append(ask(type_, language, kind))
    return questions


def random_question(
    rng: np.random.Generator,
    language: str,
    scene: Scene,
    variants: float = 0.0,
    absent_share: float = 0.15,
) -> Question:
    """Draw a question about a scene.

    `variants` is the share asked in other words than the documented ones, `absent_share` the
    share of colour and place questions about a shape that is not there.
    """
    type_ = str(rng.choice(QUESTION_KINDS, p=(0.34, 0.12, 0.24, 0.30)))
    kind = None
    if type_ in ('color', 'where'):
        present = [shape.kind for shape in scene.shapes]
        missing = [k for k in KINDS if k not in present]
        is_absent = rng.random() < absent_share or not present
        kind = str(rng.choice(missing if is_absent else present))
    if rng.random() >= variants:
        text = PHRASES[type_, language][0] + str(rng.choice(_ENDINGS[type_, language]))
        return Question(type_, language, text.format(_noun(kind, language)), kind)
    phrase = str(rng.choice(PHRASES[type_, language])).format(_noun(kind, language))
    if language == 'en':
        case = rng.random()
        if case < 0.3:
            phrase = phrase.lower()
        elif case < 0.33:
            phrase = phrase.upper()
    text = phrase + str(rng.choice(_OTHER_ENDINGS[language]))
    return Question(type_, language, text, kind)


def _noun(kind: str | None, language: str) -> str:
    return KIND_WORDS[language][kind] if kind else ''


# ---------------------------------------------------------------- drawing

# Hue, saturation and value ranges (degrees, 0 to 1), and named colours of common palettes.
_RANGES = {
    'red': ((-12, 9), (0.72, 1.0), (0.62, 1.0)),
    'green': ((92, 155), (0.45, 1.0), (0.36, 0.95)),
    'blue': ((203, 244), (0.58, 1.0), (0.50, 1.0)),
    'yellow': ((47, 62), (0.65, 1.0), (0.85, 1.0)),
    'purple': ((266, 304), (0.45, 1.0), (0.40, 0.88)),
    'orange': ((22, 39), (0.78, 1.0), (0.88, 1.0)),
}
_NAMED = {
    'red': 'ff0000 dc143c b22222 e53935 d62728 ef4444 cc0000 e60012',
    'green': '008000 228b22 32cd32 43a047 2ca02c 22c55e 2e8b57 00aa00 00ff00 006400',
    'blue': '0000ff 4169e1 1e90ff 1e88e5 1f77b4 3b82f6 0000cd 00008b',
    'yellow': 'ffff00 ffd700 fdd835 ffeb3b f4d03f ffe600 facc15',
    'purple': '800080 9400d3 8a2be2 8e24aa 9467bd a855f7 8b008b 9932cc 6a0dad',
    'orange': 'ffa500 ff8c00 fb8c00 ff7f0e f97316 ff9800 f39c12',
}
_CENTERS = {
    'top': (0.5, 0.205),
    'left': (0.205, 0.5),
    'center': (0.5, 0.5),
    'right': (0.795, 0.5),
    'bottom': (0.5, 0.795),
}


@dataclass(frozen=True)
class Disc:
    """The circle that encloses one drawn shape, in pixels of the picture."""

    x: float
    y: float
    radius: float


@dataclass
class Picture:
    """A drawn scene: uint8 BGR [height, width, 3], and where its shapes lie."""

    scene: Scene
    bgr: np.ndarray
    discs: list[Disc] = field(default_factory=list)


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw a picture's width and height: long side 160 to 1920, aspect up to 2:1 either way."""
    if rng.random() < 0.5:
        aspect = float(rng.choice((1.0, 4 / 3, 3 / 2, 16 / 9, 2.0)))
    else:
        aspect = float(np.exp(rng.uniform(0, np.log(2.0))))
    if rng.random() < 0.75:
        long_side = float(np.exp(rng.uniform(np.log(160), np.log(700))))
    else:
        long_side = float(
            rng.choice(
                (224, 320, 448, 640, 800, 960, 1280, 1920),
                p=(0.2, 0.15, 0.15, 0.2, 0.1, 0.1, 0.06, 0.04),
            )
        )
    short_side = long_side / aspect
    if rng.random() < 0.35:
        long_side, short_side = short_side, long_side
    return round(long_side), round(short_side)


def draw(
    scene: Scene,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
    clean: bool = False,
) -> Picture:
    """Draw a scene at a random or given size (width, height).

    `clean` leaves texture, blur, noise, brightness and JPEG artefacts out.
    """
    width, height = size or random_size(rng)
    discs = _arrange(scene, rng, width, height)
    bgr = _background(rng, width, height, clean)
    for shape, disc in zip(scene.shapes, discs, strict=True):
        _draw_shape(bgr, shape, disc, rng)
    if not clean:
        bgr = _degrade(bgr, rng)
    return Picture(scene, bgr, discs)


def _arrange(
    scene: Scene,
    rng: np.random.Generator,
    width: int,
    height: int,
) -> list[Disc]:
    short = min(width, height)
    # At the encoder's 224 pixels no shape may be thinner than about 18 pixels.
    least = max(0.105, 9.0 / (short * min(1.0, 224 / max(width, height))))
    for attempt in itertools.count():
        most = max(least + 0.01, 0.215 - 0.002 * attempt)
        discs = []
        for shape in scene.shapes:
            radius = rng.uniform(least, most) * short
            x, y = _CENTERS[shape.place]
            along, across = 0.075, 0.06
            x += rng.uniform(-1, 1) * (along if shape.place in ('left', 'right') else across)
            y += rng.uniform(-1, 1) * (along if shape.place in ('top', 'bottom') else across)
            discs.append(
                Disc(
                    float(np.clip(x * width, radius + 1, width - radius - 1)),
                    float(np.clip(y * height, radius + 1, height - radius - 1)),
                    radius,
                )
            )
        if all(
            np.hypot(a.x - b.x, a.y - b.y) > (a.radius + b.radius) * 1.02
            for a, b in itertools.combinations(discs, 2)
        ):
            return discs
    raise AssertionError('unreachable')


def _background(
    rng: np.random.Generator,
    width: int,
    height: int,
    clean: bool,
) -> np.ndarray:
    level = rng.uniform(205, 255)
    base = level + rng.uniform(-14, 14, 3) * (rng.random() < 0.6)
    if rng.random() < 0.25 or clean:
        base = np.full(3, 255.0) if rng.random() < 0.5 else base
    image = np.empty((height, width, 3), np.float32)
    image[:] = np.clip(base, 195, 255)
    style = 0.0 if clean else rng.random()
    if style < 0.4:
        pass
    elif style < 0.65:  # slow shading
        cells = rng.uniform(-10, 10, (3, 3, int(rng.choice((1, 3))))).astype(np.float32)
        shade = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
        image += shade.reshape(height, width, -1)
    elif style < 0.85:  # paper grain
        shrink = int(rng.choice((1, 2, 4)))
        grain = rng.normal(0, 5, (height // shrink + 1, width // shrink + 1))
        grain = cv2.resize(grain.astype(np.float32), (width, height))
        image += grain[..., None]
    else:  # faint lines
        step = max(6, int(min(width, height) * rng.uniform(0.05, 0.15)))
        tone = tuple(float(v) for v in np.clip(base, 195, 255) - rng.uniform(5, 16))
        for x in range(int(rng.integers(step)), width, step):
            cv2.line(image, (x, 0), (x, height), tone, 1)
        if rng.random() < 0.6:
            for y in range(int(rng.integers(step)), height, step):
                cv2.line(image, (0, y), (width, y), tone, 1)
    return np.clip(image, 0, 255).astype(np.uint8)


def _shade(color_: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return a shade of a colour as blue, green, red."""
    if rng.random() < 0.4:
        code = str(rng.choice(_NAMED[color_].split()))
        rgb = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32)
        if rng.random() < 0.5:
            rgb = np.clip(rgb + rng.uniform(-8, 8, 3), 0, 255)
    else:
        hue, saturation, value = (rng.uniform(*limits) for limits in _RANGES[color_])
        pixel = np.array([[[hue % 360, saturation, value]]], np.float32)
        rgb = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255
    return float(rgb[2]), float(rgb[1]), float(rgb[0])


def outline(
    kind: str,
    disc: Disc,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return a shape's outline as float points [n, 2] in pixels."""
    r = disc.radius
    if kind == 'circle':
        angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        unit = np.stack((np.cos(angles), np.sin(angles)), 1)
        points = unit * (r, r * rng.uniform(0.95, 1.05))
    elif kind == 'square':
        half = r * rng.uniform(0.74, 0.98)
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
        points = _turn(points, rng.uniform(-6, 6) if rng.random() < 0.4 else 0)
    elif kind == 'triangle':
        wide, tall = r * rng.uniform(0.82, 1.0), r * rng.uniform(0.82, 1.0)
        lean = rng.uniform(-0.12, 0.12) * r if rng.random() < 0.4 else 0.0
        low = rng.uniform(0.62, 0.9) * tall
        points = np.array([(lean, -tall), (wide, low), (-wide, low)])
        points = _turn(points, rng.uniform(-6, 6) if rng.random() < 0.4 else 0)
    else:
        inner = 0.382 if rng.random() < 0.4 else rng.uniform(0.34, 0.56)
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2 == 0, 1.0, inner) * r
        points = np.stack((np.cos(angles), np.sin(angles)), 1) * radii[:, None]
        points = _turn(points, rng.uniform(-14, 14) if rng.random() < 0.5 else 0)
    return points + np.array((disc.x, disc.y))


def _turn(points: np.ndarray, degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    return points @ np.array([(np.cos(a), np.sin(a)), (-np.sin(a), np.cos(a))])


def _draw_shape(
    bgr: np.ndarray,
    shape: Shape,
    disc: Disc,
    rng: np.random.Generator,
) -> None:
    line = cv2.LINE_AA if rng.random() < 0.75 else cv2.LINE_8
    tint = _shade(shape.color, rng)
    points = np.round(outline(shape.kind, disc, rng) * 16).astype(np.int32)
    cv2.fillPoly(bgr, [points], tint, line, shift=4)
    if rng.random() < 0.2:  # a darker rim
        rim = tuple(v * rng.uniform(0.3, 0.85) for v in tint)
        thick = max(1, round(disc.radius * rng.uniform(0.03, 0.1)))
        cv2.polylines(bgr, [points], True, rim, thick, line, shift=4)


def _degrade(bgr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scale = max(1.0, max(bgr.shape[:2]) / 224)
    if rng.random() < 0.4:
        bgr = cv2.GaussianBlur(bgr, (0, 0), rng.uniform(0.3, 0.9) * scale)
    if rng.random() < 0.4:
        gain, offset = rng.uniform(0.88, 1.1), rng.uniform(-10, 10)
        bgr = cv2.convertScaleAbs(np.clip(bgr * np.float32(gain) + np.float32(offset), 0, 255))
    if rng.random() < 0.4:
        noise = np.empty(bgr.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(noise, (0, 0, 0), (rng.uniform(1, 9),) * 3)
        bgr = cv2.add(bgr, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.35:
        quality = int(rng.integers(45, 96))
        _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return bgr
