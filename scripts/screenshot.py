"""Take docs/images/page.png: the page while the built-in model answers about config/image2.jpg.

Words and times are those of the run. After `make test-web`, with a font that has Chinese:

    .venv/bin/python scripts/screenshot.py
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'test')]

from browser import visit  # noqa: E402
from served import SAMPLE, Served  # noqa: E402

# Whether each is about the picture of the one before it.
QUESTIONS = (
    ('What color is the star?', False),
    ('What color is the square?', False),
    ('How many shapes are there?', False),
    ('Describe the image.', False),
    ('Where is the circle?', True),
    ('星形是什么颜色？', True),
)
SHOWN = 3  # of the questions: the others give the plots something to show
POINTS = "return document.querySelector('#plot-first_token_ms polyline').outerHTML"
WINDOW = {'width': 1100, 'height': 560, 'deviceScaleFactor': 1.5, 'mobile': False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default=ROOT / 'docs' / 'images' / 'page.png', help='%(default)s')
    options = parser.parse_args()
    with (
        Served('internvl', ['--picture', str(SAMPLE)]) as server,
        visit(server.url, '--lang=en-GB', '--accept-lang=en-GB', '--hide-scrollbars') as visitor,
    ):
        visitor.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', WINDOW)
        visitor.wait_for(lambda: visitor.element('frame').is_displayed(), 'the frame')
        for i, (question, is_same) in enumerate(QUESTIONS):
            if i == len(QUESTIONS) - SHOWN:
                visitor.element('reset').click()
            if visitor.element('same').is_selected() != is_same:
                visitor.element('same').click()
            before = visitor.run(POINTS)
            print(question, visitor.ask(question), visitor.last()[1], sep='\n    ')
            # The figures come once a second.
            visitor.wait_for(lambda before=before: visitor.run(POINTS) != before, 'a point')
        visitor.run('document.activeElement.blur()')
        image = Image.open(io.BytesIO(visitor.driver.get_screenshot_as_png()))
    image.convert('RGB').save(options.out, optimize=True)


if __name__ == '__main__':
    main()
