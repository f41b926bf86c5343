"""A reader without a browser: requests one story over plain HTTP, and notes when each piece arrives."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

from serving import Server

from model.sampling import SETTINGS, Sampling
from page.turns import WAIT_SECONDS

PROMPT = "Once upon a time there was an "  # 30 characters
PLAIN = Sampling(temperature=0.8)  # one draft


class Reader:
    """Requests a story as a visitor at `address`. If there is no story, `refused` is the reason."""

    def __init__(
        self,
        server: Server,
        length: int,
        seed: int,
        prompt: str = PROMPT,
        address: str = "127.0.0.1",
        sampling: Sampling = PLAIN,
    ) -> None:
        self.asked, self.times, self.text, self.prompt = time.monotonic(), [], prompt, prompt
        self.refused: str | None = None
        self.connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=WAIT_SECONDS + 30)
        settings = replace(sampling, length=length, seed=seed)
        body = json.dumps({"data": ["", prompt, *(getattr(settings, name) for name in SETTINGS)]})
        headers = {"Content-Type": "application/json", "X-Forwarded-For": address}
        self.connection.request("POST", "/gradio_api/call/tell", body, headers)
        self.answer = self.connection.getresponse()
        told = json.load(self.answer)
        if self.answer.status != 200:
            self.refused = told["detail"]
            return
        self.connection.request("GET", f"/gradio_api/call/tell/{told['event_id']}", headers=headers)
        self.answer = self.connection.getresponse()

    def _event(self) -> dict[str, str]:
        """The fields of the next event of the stream; empty at the end of the stream."""
        lines = iter(lambda: self.answer.readline().decode().rstrip("\n"), "")
        return dict(line.split(": ", 1) for line in lines)

    def piece(self) -> bool:
        """Waits for the next piece. False after the last one, or where the request was refused."""
        while not self.refused:
            event = self._event()
            assert event, "the stream ended without a last event"
            if event["event"] == "error":
                self.refused = json.loads(event["data"])["error"]
            elif event["event"] == "complete":
                break
            elif event["event"] == "generating":
                text = json.loads(event["data"])[0]
                if text == self.text:  # empty while drafts are drawn
                    continue
                self.times.append(time.monotonic())
                self.text = text
                return True
        return False

    def whole(self) -> Reader:
        while self.piece():
            pass
        self.close()
        return self

    def close(self) -> None:
        self.answer.close()
        self.connection.close()

    @property
    def first(self) -> float:
        """Seconds until the first piece."""
        return self.times[0] - self.asked

    @property
    def last(self) -> float:
        """Seconds until the last piece."""
        return self.times[-1] - self.asked

    @property
    def longest_pause(self) -> float:
        return max(after - before for before, after in pairwise(self.times))


def together(
    server: Server, readers: int, length: int, seed: int, prompt: str = PROMPT, sampling: Sampling = PLAIN
) -> list[Reader]:
    """Reads `readers` complete stories at the same time, each as another visitor."""

    def read(i: int) -> Reader:
        return Reader(server, length, seed + i, prompt, f"198.51.100.{i}", sampling).whole()

    with ThreadPoolExecutor(readers) as pool:
        stories = list(pool.map(read, range(readers)))
    assert [each.refused for each in stories] == [None] * readers
    return stories
