"""Open the page of `keras-resnet demo` in a real browser.

It needs `pip install playwright`, which brings no browser along, and Chromium on the path.
"""

import os
import shutil

import pytest
from PIL import Image

from keras_resnet import data
from keras_resnet.serving.demo_answers import opened, requests
from keras_resnet.serving.predict import predict

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
HOSTILE = "<img src=x onerror=alert(1)>.png"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # As root, Chromium starts only without its sandbox.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        with started.chromium.launch(executable_path=CHROMIUM, args=flags) as one:
            yield one


@pytest.fixture(scope="module")
def url(with_heat_map, serve_demo):
    with opened(with_heat_map) as export, serve_demo(export) as one:
        yield f"{one}/"


@pytest.fixture(params=SIZES)
def page(request, browser, url):
    """The page, of which at the end no script has failed and nothing came from elsewhere."""
    width, height = SIZES[request.param]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    failures, asked = [], []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("dialog", lambda dialog: failures.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    # Choosers are caught from now on; without it a test could open one too early.
    page.on("filechooser", lambda chooser: None)
    page.goto(url)
    yield page
    page.close()
    assert failures == []
    assert [one for one in asked if not one.startswith((url, "data:"))] == []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    images = [Image.fromarray(image) for image in data.load("digits").test.images[:3]]
    for name, image in zip(("one.png", HOSTILE, "three.bmp"), images, strict=True):
        image.save(folder / name)
    images[0].save(folder / "no.webp")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "one.png").read_bytes()[:-20])
    return folder


def done(page, count):
    page.get_by_role("status").get_by_text(f"{count} of {count} files done").wait_for()


def overflow(page):
    """Return by how many pixels the page is wider than the screen."""
    return page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")


def test_images_are_answered_and_bad_ones_named(page, files, with_heat_map):
    names = ["one.png", "no.webp", "empty.png", HOSTILE, "cut.png", "three.bmp"]
    page.set_input_files("#files", [files / name for name in names])
    done(page, 6)
    assert page.get_by_role("heading", level=1).text_content() == "digits, by heat, version 1"
    cards = page.locator("article")
    assert cards.locator("h2").all_text_contents() == names
    assert cards.locator(".error").all_text_contents() == [
        "no.webp is not an image that can be read: WebP; give JPEG, PNG, GIF or BMP",
        "empty.png is not an image that can be read: empty",
        "cut.png is not an image that can be read: a damaged PNG, or one that is cut off",
    ]
    assert page.locator(".image:visible, .heat-map:visible").count() == 6
    for name in ("one.png", HOSTILE, "three.bmp"):
        image = page.get_by_role("img", name=name, exact=True)
        box = image.bounding_box()
        assert box["width"] > 200 and box == image.locator("+ img").bounding_box()
    first = cards.first
    (wanted,) = predict(with_heat_map, [files / "one.png"])
    assert first.locator("tbody th").all_text_contents() == wanted["classes"]
    shares = [float(text.rstrip("%")) for text in first.locator(".score").all_text_contents()]
    bars = [bar.evaluate("(bar) => bar.value") for bar in first.locator("meter").all()]
    assert len(bars) == 5 and shares == pytest.approx([100 * value for value in bars], abs=0.06)
    first.get_by_role("checkbox").uncheck()
    assert not first.locator(".heat-map").is_visible()
    assert overflow(page) == 0


def test_a_request_is_copied(page, files):
    page.set_input_files("#files", [files / HOSTILE])
    done(page, 1)
    page.get_by_text("Request of a client to TF Serving").click()
    wanted = requests("digits, by heat", (files / HOSTILE).read_bytes(), HOSTILE)
    for way, text in wanted.items():
        button = page.get_by_role("button", name=f"Copy the request: {way}")
        button.click()
        button.get_by_text("Copied").wait_for()
        assert page.evaluate("() => navigator.clipboard.readText()") == text
    assert overflow(page) == 0


def dropped(page, files):
    """Drop files, each a name and its content, or a text if there are none, on the page."""
    made = """(files) => {
        const held = new DataTransfer();
        for (const [name, content] of files) {
            held.items.add(new File([new Uint8Array(content)], name));
        }
        if (!files.length) held.setData("text/plain", "no file");
        return held;
    }"""
    held = page.evaluate_handle(made, [[name, list(content)] for name, content in files])
    page.dispatch_event("main", "dragover", {"dataTransfer": held})
    assert "over" in (page.get_attribute("#drop", "class") or "")
    page.dispatch_event("main", "drop", {"dataTransfer": held})


def test_files_are_dropped(page, files):
    dropped(page, [(name, (files / name).read_bytes()) for name in ("one.png", "cut.png")])
    done(page, 2)
    assert page.locator("article .error").count() == 1
    dropped(page, [])
    page.get_by_role("status").get_by_text("That was not a file").wait_for()
    dropped(page, [("three.bmp", (files / "three.bmp").read_bytes())])
    done(page, 3)
    # The newest comes first.
    assert page.locator("h2").all_text_contents() == ["three.bmp", "one.png", "cut.png"]


def test_files_are_chosen_by_the_keyboard(page, files):
    page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([files / "one.png"])
    done(page, 1)
    for role, name in (("checkbox", "Heat map"), (None, "Request of a client")):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.count() == 1
        if role:
            assert focused.get_attribute("type") == role
        else:
            assert name in focused.text_content()
    page.keyboard.press("Enter")
    assert page.get_by_text("POST http://localhost:8501").is_visible()


def test_two_windows_and_a_large_file(page, browser, url, files):
    other = browser.new_page()
    other.goto(url)
    for one in (page, other):
        one.set_input_files("#files", [files / "one.png", files / "three.bmp"] * 3)
    for one in (page, other):
        done(one, 6)
        assert one.locator("meter").count() == 30
    other.close()
    # Refused before it is sent.
    page.evaluate("""() => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(2 ** 26 + 1)], "film.png"));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: held }));
    }""")
    done(page, 7)
    assert page.locator(".error").text_content() == (
        "film.png has 67,108,865 bytes; give an image of 67,108,864 at most"
    )


def test_a_stopped_demo_is_named(browser, with_heat_map, serve_demo, files):
    page = browser.new_page()
    with opened(with_heat_map) as export, serve_demo(export) as one:
        page.goto(one)
        page.set_input_files("#files", [files / "one.png"])
        done(page, 1)
    page.set_input_files("#files", [files / "three.bmp"])
    done(page, 2)
    assert page.locator(".error").text_content() == (
        "three.bmp has no answer; the demo seems to be stopped"
    )
    page.close()
