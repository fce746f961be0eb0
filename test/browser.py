"""Headless Chromium with the page in it, as a person has it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ['Visitor', 'visit']

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
TIMEOUT = 15.0
PHONE = {'width': 390, 'height': 844, 'deviceScaleFactor': 1, 'mobile': True}


class Visitor:
    """Somebody who looks at the page, types and clicks."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page."""
        return self.driver.execute_script(script, *arguments)

    def element(self, name: str) -> Any:
        """Return the element with an id, or that a CSS selector finds."""
        return self.driver.find_element('css selector', name if ' ' in name else f'#{name}')

    def texts(self, selector: str) -> list[str]:
        """Return what stands in the elements that a selector finds."""
        found = self.driver.find_elements('css selector', selector)
        return [element.text for element in found]

    def wait_for(self, done: Callable[[], Any], what: str = 'it') -> Any:
        """Wait until `done()` is true; return what it gave."""
        from selenium.webdriver.support.wait import WebDriverWait

        wait = WebDriverWait(self.driver, TIMEOUT, poll_frequency=0.02)
        return wait.until(lambda driver: done(), f'{what} did not happen')

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focus(self) -> str:
        """Return the id of what has the keyboard."""
        return str(self.run('return document.activeElement.id'))

    def begin(self, question: str) -> None:
        """Type a question and send it."""
        self.element('question').send_keys(question, '\n')

    def last(self) -> tuple[str, str]:
        """Return the newest answer and the line beneath it."""
        return self.texts('.turn:last-child .answer')[0], self.texts('.turn:last-child .note')[0]

    def ask(self, question: str) -> str:
        """Ask and wait for the whole answer."""
        n = len(self.texts('.turn'))
        self.begin(question)
        self.wait_for(lambda: len(self.texts('.turn')) > n and self.last()[1], 'an answer')
        return self.last()[0]


@contextmanager
def visit(url: str, *arguments: str) -> Iterator[Visitor]:
    """Open the page in a fresh browser; skip the test where there is none."""
    if not CHROMIUM or not DRIVER:
        pytest.skip('needs Chromium and its driver: scripts/browser.sh')
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        '--headless=new',
        '--no-sandbox',  # root has none
        '--disable-dev-shm-usage',
        '--disable-gpu',
        '--window-size=1180,860',
        *arguments,
    ):
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.get(url)
        yield Visitor(driver)
    finally:
        driver.quit()
