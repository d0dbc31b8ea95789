"""Debian's chromium without a screen, with its console and requests logged."""

import os
import shutil
import time

import pytest

FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync", "disable-dev-shm-usage")  # fmt: skip


def start():
    """A driver; where there is no browser a skip that says why, or a failure where all is required."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        message = "chromium and chromedriver are not installed (apt install chromium chromium-driver)"
        if os.environ.get("EMPLIFAI_REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def wait(condition, what: str, seconds: float = 60):
    """The first true value of `condition`, which may fail while a page is being made."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except Exception as error:  # the page is being replaced
            what = f"{what.split(' (')[0]} ({type(error).__name__})"
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def resize(driver, width: int, height: int = 900) -> None:
    """Set the page's own width, which a window cannot make as narrow as a phone."""
    settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
