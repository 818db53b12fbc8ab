"""A headless Chromium, driven over HTTP by its driver."""

import base64
import http.client
import json
import time

from parts.load import await_status
from parts.machine import free_ports
from parts.settings import Unusable


class Browser:
    """A headless Chromium that shows a page, driven by its driver."""

    def __init__(self, processes, url, width=1280, height=800):
        (port,) = free_ports(1)
        processes.start("chromedriver", f"--port={port}")
        self.port = port
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
        flags += ["--enable-precise-memory-info", "--js-flags=--expose-gc"]
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": flags}}}}
        await_status(port, "/status")
        self.session = f"/session/{self.call('POST', '/session', wanted)['sessionId']}"
        self.open(url)

    def open(self, url):
        self.call("POST", f"{self.session}/url", {"url": url})

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        text = None if method == "GET" else json.dumps(body or {})
        connection.request(method, path, text, {"Content-Type": "application/json"})
        value = json.load(connection.getresponse())["value"]
        connection.close()
        return value

    def value(self, expression):
        script = {"script": f"return ({expression});", "args": []}
        return self.call("POST", f"{self.session}/execute/sync", script)

    def await_value(self, expression, within_s=20):
        """Asks until the expression is true in the page."""
        deadline = time.monotonic() + within_s
        while not self.value(expression):
            if time.monotonic() > deadline:
                raise Unusable(f"the page is not as expected: {expression}")
            time.sleep(0.01)

    def click(self, selector):
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def set_dark(self, is_dark):
        feature = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}
        self.call("POST", f"{self.session}/goog/cdp/execute", command)

    def save_picture(self, file):
        file.write_bytes(base64.b64decode(self.call("GET", f"{self.session}/screenshot")))

    def heap_mb(self):
        return self.value("gc(), performance.memory.usedJSHeapSize") / 2**20

    def slowest_frame_ms(self, seconds=3):
        """The longest time between two frames while the page is watched."""
        script = (
            "const done = arguments[0]; let last = performance.now(), worst = 0; const end = last + "
            f"{seconds * 1000}; const next = (now) => {{ worst = Math.max(worst, now - last); last = now;"
            " now < end ? requestAnimationFrame(next) : done(worst); }; requestAnimationFrame(next);"
        )
        return self.call("POST", f"{self.session}/execute/async", {"script": script, "args": []})

    def close(self):
        self.call("DELETE", self.session)
