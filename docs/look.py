"""
The site as a person sees it: `make look` takes pictures of its pages and reports what does not fit on them.

    python docs/look.py docs/_build docs/_look            # all pages
    python docs/look.py docs/_build docs/_look structured api/pm_fastlmm.reml

Every page is drawn by a headless Chromium at the width of a desk and of a phone, in light and in dark. Pictures are
`<page>-<width>-<scheme>.png`. Printed are elements that reach beyond the page, at which the exit status is 1, and
elements that have to be scrolled sideways to be read, with how many of their pixels are hidden.
"""

import argparse
import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
TALLEST = 16_000  # pixels, of a picture that Chromium takes
WIDE = """
const beyond = [], scrolled = [];
const clips = e => getComputedStyle(e).overflowX !== "visible";
const clipped = e => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
  if (clips(p)) return true; return false; };
const name = e => {
  const of = e.closest("section[id]"), kind = e.classList.length ? "." + [...e.classList].join(".") : "";
  const text = (e.innerText || e.alt || "").trim().replace(/\\s+/g, " ").slice(0, 60);
  return `${of ? "#" + of.id + " " : ""}<${e.localName}${kind}> ${text}`;
};
for (const e of document.querySelectorAll(".bd-header *, .bd-container *, .bd-footer *")) {
  const box = e.getBoundingClientRect();
  if (!box.width || !box.height || getComputedStyle(e).visibility === "hidden") continue;
  if (e.closest("dialog:not([open]), .bd-sidebar-primary, .visually-hidden, .skip-link")) continue;
  if ((box.right > innerWidth + 1 || box.left < -1) && !clipped(e) && !(e.parentElement.dataset.beyond))
    { e.dataset.beyond = 1; beyond.push(`${name(e)} (${Math.round(box.left)} to ${Math.round(box.right)})`); }
  if (clips(e) && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1 && e.closest("article"))
    scrolled.push(`${e.scrollWidth - e.clientWidth} of ${e.scrollWidth} px: ${name(e)}`);
}
document.querySelectorAll("[data-beyond]").forEach(e => delete e.dataset.beyond);
return {beyond, scrolled};
"""


class View(NamedTuple):
    """A page at a width: what reaches beyond it, and what has to be scrolled sideways."""

    page: str
    width: int
    beyond: list[str]
    scrolled: list[str]


def browser() -> webdriver.Chrome:
    """Return Debian's Chromium, without a window; it reads files only."""
    options = Options()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
    ):
        options.add_argument(argument)
    options.binary_location = "/usr/bin/chromium"
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def views(
    driver: webdriver.Chrome, site: Path, pages: list[str], pictures: Path
) -> Iterator[View]:
    """Take the pictures of each page and yield what does not fit."""
    for page in pages:
        for width in WIDTHS:
            size = {
                "width": width,
                "height": 900,
                "deviceScaleFactor": 1,
                "mobile": width < 600,
            }
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            for scheme in SCHEMES:
                wishes = {
                    "prefers-color-scheme": scheme,
                    "prefers-reduced-motion": "reduce",
                }
                features = [
                    {"name": name, "value": value} for name, value in wishes.items()
                ]
                driver.execute_cdp_cmd(
                    "Emulation.setEmulatedMedia", {"features": features}
                )
                driver.get((site / f"{page}.html").resolve().as_uri())
                _photograph(
                    driver,
                    pictures / f"{page.replace('/', '.')}-{width}-{scheme}.png",
                    width,
                )
            yield View(page, width, **driver.execute_script(WIDE))


def _photograph(driver: webdriver.Chrome, file: Path, width: int) -> None:
    height = min(
        driver.execute_script("return document.documentElement.scrollHeight"), TALLEST
    )
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
    )
    file.write_bytes(base64.b64decode(shot["data"]))


def main() -> int:
    """Look at the pages; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("pages", nargs="*")
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    every = sorted(
        str(p.relative_to(arguments.site).with_suffix(""))
        for p in arguments.site.rglob("*.html")
    )
    pages = arguments.pages or [page for page in every if not page.startswith("_")]
    if not every:
        parser.error(f"{arguments.site} has no pages: `make docs` builds them.")
    driver = browser()
    beyond = scrolled = 0
    try:
        for view in views(driver, arguments.site, pages, arguments.pictures):
            for line in view.beyond:
                print(
                    f"{view.page} at {view.width}: beyond the page: {line}", flush=True
                )
            for line in view.scrolled:
                print(
                    f"{view.page} at {view.width}: scrolled sideways, {line}",
                    flush=True,
                )
            beyond, scrolled = beyond + len(view.beyond), scrolled + len(view.scrolled)
    finally:
        driver.quit()
    print(
        f"{len(pages)} pages: {beyond} elements beyond the page, {scrolled} scrolled sideways"
    )
    return int(beyond > 0)


if __name__ == "__main__":
    sys.exit(main())
