"""Looks at the pages that uq4ct writes and serves, in headless Chromium.

At 390, 768 and 1280 pixels, light and dark: nothing scrolls sideways, no letter is below 11 pixels
(in plots too) or lacks contrast, no plot cuts its own letters, every plot has its text for people
who do not see it, terms explain themselves. On paper every part begins a new sheet.

Usage: pages.py PROGRAM SCREENSHOTS
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = str(Path(sys.argv[1]).resolve())
SHOTS = Path(sys.argv[2])
WIDTHS = (390, 768, 1280)
WRONG = []
TINY = ["train", "--model", "tiny", "--dataset", "arc-easy", "--plain"]
QUESTION = "question=Is%20%3Cb%3E7%3C/b%3E%20odd%3F&choice=yes%20%26%20no&choice=no&routing=1"
# Long words and markup, as users have them.
SEVERAL = """Is the sky blue?
true
false

{"question": "Is this <i>one</i> without an end: %s?", "choices": ["true", "false"]}

What is this?
""" % ("o" * 90)

MEASURE = """(() => {
  const wrong = [], page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) {
    const wide = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > page.clientWidth + 1);
    wrong.push(`scrolls sideways: ${page.scrollWidth} of ${page.clientWidth}, ${wide.slice(0, 3).map(e => e.outerHTML.slice(0, 90))}`);
  }
  const parts = color => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const found = parts(getComputedStyle(e).backgroundColor);
      if (found.length && (found[3] ?? 1) > 0) return found;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let letters = 0;
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || ["SCRIPT", "STYLE"].includes(e.tagName) || !e.checkVisibility()) continue;
    letters += text.length;
    const style = getComputedStyle(e), drawn = e.ownerSVGElement;
    const shape = drawn && e.getScreenCTM();
    const size = parseFloat(style.fontSize) * (drawn ? Math.hypot(shape.a, shape.b) : 1);
    if (size < 10.99) wrong.push(`${size.toFixed(1)} pixels: ${text.slice(0, 40)}`);
    const [one, other] = [parts(drawn ? style.fill : style.color), ground(e)].map(light).sort((a, b) => b - a);
    const contrast = (one + .05) / (other + .05);
    // A switched-off button may be pale.
    if (contrast < 4.5 && !e.disabled) wrong.push(`contrast ${contrast.toFixed(1)}: ${text.slice(0, 40)}`);
    if (drawn) {
      const [inner, outer] = [e, drawn].map(e => e.getBoundingClientRect());
      const over = Math.max(outer.left - inner.left, inner.right - outer.right, outer.top - inner.top, inner.bottom - outer.bottom);
      if (over > 1) wrong.push(`cut by ${over.toFixed(0)} pixels: ${text.slice(0, 40)}`);
    }
  }
  for (const e of document.querySelectorAll("svg"))
    if (e.getAttribute("role") !== "img" || !e.getAttribute("aria-label")) wrong.push("a plot without a text");
  for (const e of document.querySelectorAll("img"))
    if (!e.alt) wrong.push("a picture without a text");
  for (const e of document.querySelectorAll("input, textarea"))
    if (!e.labels.length) wrong.push(`a field without a label: ${e.id}`);
  const term = document.querySelector("a.term");
  let explained = null;
  if (term) {
    term.focus({ focusVisible: true });
    explained = getComputedStyle(term, "::after").content;
    if (page.scrollWidth > page.clientWidth) wrong.push("the explanation of a term scrolls sideways");
    term.blur();
  }
  return { wrong: [...new Set(wrong)], letters, explained };
})()"""


class Browser:
    """Chromium, spoken to through a pair of pipes: no package is needed."""

    def __init__(self, program, folder):
        there, self.writes = os.pipe()
        self.reads, back = os.pipe()

        def descriptors():
            # 3 and 4 are the numbers that it listens on. Copies first: they may be in the way.
            one, other = os.dup(there), os.dup(back)
            os.dup2(one, 3)
            os.dup2(other, 4)

        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   "--remote-debugging-pipe", f"--user-data-dir={folder}"]
        self.process = subprocess.Popen(command, preexec_fn=descriptors, close_fds=False,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(there)
        os.close(back)
        self.number, self.session, self.rest = 0, None, b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")

    def hear(self):
        while b"\0" not in self.rest:
            more = os.read(self.reads, 1 << 16)
            assert more, "Chromium has ended"
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            said = self.hear()
            if said.get("id") == self.number:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]

    def show(self, address, width, scheme, media=""):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", media=media,
                 features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=address)
        self.run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def run(self, script):
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def shoot(self, name):
        picture = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        (SHOTS / f"{name}.png").write_bytes(base64.b64decode(picture))

    def close(self):
        self.ask("Browser.close")
        self.process.wait(timeout=20)


def uq4ct(*words):
    done = subprocess.run([PROGRAM, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"uq4ct {' '.join(map(str, words))}: {done.stdout}{done.stderr}"


def judge(name, browser, explains):
    browser.shoot(name)
    found = browser.run(MEASURE)
    wrong = found["wrong"]
    if found["letters"] < 200:
        wrong.append(f"only {found['letters']} letters are shown")
    if explains and len(found["explained"] or "") < 20:
        wrong.append(f"a term is not explained: {found['explained']}")
    WRONG.extend(f"{name}: {what}" for what in wrong)


def every(browser, page, address, prepare=None, explains=True):
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            browser.show(address, width, scheme)
            if prepare:
                prepare()
            judge(f"{page}-{width}-{scheme}", browser, explains)


def paper(browser, page, address):
    browser.show(address, 794, "dark", media="print")
    found = browser.run("[...document.querySelectorAll('section.part')].map(e => getComputedStyle(e).breakBefore)")
    assert len(found) >= 4 and set(found) == {"page"}, f"{page} on paper: {found}"
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)", f"{page} on paper is {ground}"


def served(browser):
    server = subprocess.Popen([PROGRAM, "serve", "uq4ct", "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait = "new Promise((done, fail) => { let n = 0; const look = () => %s ? done() : n++ > 400 ? fail(new Error(document.body.innerText)) : setTimeout(look, 50); look(); })"
    try:
        address = server.stdout.readline().split()[-1]
        # One question from the link, with its routing; then three, one of which is none.
        browser.show(f"{address}/?{QUESTION}", 390, "light")
        browser.run(wait % "document.querySelectorAll('td.cell').length")
        browser.run(f"""document.getElementById("several").click();
            document.getElementById("questions").value = {json.dumps(SEVERAL)};
            document.getElementById("ask").click()""")
        browser.run(wait % "document.querySelectorAll('.card').length === 4")
        shown = browser.run("""[...document.querySelectorAll('.card')].map(card => [
            card.querySelector('.asked').textContent, card.querySelector('.counts')?.textContent ?? '',
            !!card.querySelector('.failed')])""")
        assert shown[3][0] == "Is <b>7</b> odd?" and shown[3][1].endswith(" %"), shown
        rests = browser.run("document.querySelector('.card .rests').textContent")
        assert "held-out questions" in rests, rests
        assert shown[2][0] == "Is the sky blue?" and not shown[2][2], shown
        assert shown[0][2], f"a question without choices has an answer: {shown}"
        # What was asked is there after a reload, folded, and none of it is routing.
        browser.show(address, 390, "light")
        kept = browser.run("[...document.querySelectorAll('.card')].map(card => card.open)")
        assert kept == [False] * 3, kept
        assert browser.run("document.querySelectorAll('td.cell').length") == 0

        def unfold():
            browser.run("""document.querySelectorAll('.card').forEach(card => card.open = true);
                document.querySelectorAll('.card:last-child details.more').forEach(more => more.open = true)""")
            browser.run(wait % "document.querySelectorAll('td.cell').length")

        every(browser, "served", address, unfold, explains=False)
        browser.run("document.getElementById('forget').click()")
        browser.show(address, 390, "light")
        assert browser.run("document.querySelectorAll('.card').length") == 0
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=30) == 0


def main():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        print("skipped: no Chromium")
        return
    shutil.rmtree(SHOTS, ignore_errors=True)
    SHOTS.mkdir(parents=True)
    for method in ("uq4ct", "lora"):
        uq4ct(*TINY, "--method", method, "--run", method)
    uq4ct("compare", "uq4ct", "lora", "--out", ".")
    browser = Browser(program, ROOT / "chromium")
    try:
        for page, file in (("report", "uq4ct/report.html"), ("compare", "compare.html")):
            every(browser, page, (ROOT / file).as_uri())
            paper(browser, page, (ROOT / file).as_uri())
        served(browser)
    finally:
        browser.close()
    if WRONG:
        sys.exit("\n".join(WRONG) + f"\nThe pictures are in {SHOTS}")
    shots = len(list(SHOTS.glob("*.png")))
    print(f"Chromium shows report, comparison and served page at {WIDTHS} pixels, light and dark: {shots} pictures in {SHOTS}")


with tempfile.TemporaryDirectory(prefix="uq4ct-pages-", ignore_cleanup_errors=True) as folder:
    ROOT = Path(folder)
    main()
