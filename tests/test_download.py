"""The named corpora, from local servers that stand in for the Hub, GitHub and Project Gutenberg."""

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import model
from model.vocab import END
from train.text.corpus import CorpusError, prepare
from train.text.tales import BOOKS

ROOT = Path(__file__).parents[1]
STORIES = [f"Story {i}: once upon a time there was a little car." for i in range(30)]
PLAY = b"First Citizen:\nBefore we proceed any further,\n\nhear me speak.\n" * 5
HUB = "/datasets/roneneldan/TinyStories/resolve/main/"


class StandIn(ThreadingHTTPServer):
    """Serves `files` by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []  # method, path

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables for a separate process: the Hub's client reads its address once, when it is imported."""
        return os.environ | {"HF_ENDPOINT": self.url, "HF_HOME": str(folder / "hub"), "PYTHONPATH": str(ROOT)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *args: object) -> None:
        """Prints nothing, to keep the test output clean."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path))
        body = self.server.files.get(self.path)
        self.send_response(404 if body is None else 200)
        body = body or b""
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """A stand-in for all three sites, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    with StandIn() as stand_in:
        threading.Thread(target=stand_in.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("GITHUB_RAW_URL", stand_in.url)
        monkeypatch.setenv("GUTENBERG_URL", stand_in.url)
        yield stand_in
        stand_in.shutdown()


def marked(stories: list[str]) -> bytes:
    return "".join(f"{story}\n{END}\n" for story in stories).encode()


def test_tinystories_comes_from_the_hub_once(server: StandIn, tmp_path: Path) -> None:
    script = """
import sys
from train.text.corpus import prepare
made = prepare("tinystories-v2")
classic = prepare("tinystories", cleaning="classic")
print(made.report["train"]["stories"], len(made.valid), len(classic.train), "huggingface_hub" in sys.modules)
"""
    server.files = {
        f"{HUB}TinyStoriesV2-GPT4-train.txt": marked([*STORIES, "Same"]),
        f"{HUB}TinyStoriesV2-GPT4-valid.txt": marked(["same!"]),
        f"{HUB}TinyStories-train.txt": marked(["ten", "letters"]),  # classic takes the last tenth for validation
    }
    for fetched in ("True", "False"):
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=server.environment(tmp_path), capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"30 7 9 {fetched}\n", "")
    assert server.requests == [(method, path) for path in server.files for method in ("HEAD", "GET")]


def test_all_of_tinystories_is_one_command(server: StandIn, tmp_path: Path) -> None:
    """storyteller-full with a smaller network and batch: from the Hub's two files to an artifact that tells a story."""
    names = [f"Story {i}: once upon a time Tom had a little car, and it was number {i}." for i in range(60)]
    server.files |= {
        f"{HUB}TinyStories-train.txt": marked(names[:50]),
        f"{HUB}TinyStories-valid.txt": marked(names[50:]),
    }
    small = "--steps 4 --batch-size 2 --layers 1 --heads 1 --width 32 --context 32 --no-compile --out full"
    command = [sys.executable, "-m", "train", "--preset", "storyteller-full", *small.split()]
    subprocess.run(command, env=server.environment(tmp_path), check=True, capture_output=True)
    storyteller = model.load(tmp_path / "full")
    assert storyteller.metrics["evaluation"]["stories"] == 10
    assert storyteller.metrics["data"]["train"]["stories"] == 50
    assert "".join(storyteller.tell("Story", model.Sampling(length=5, stop_at_end=False)))


def test_shakespeare_keeps_its_newlines(server: StandIn) -> None:
    server.files["/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"] = PLAY
    for _ in range(2):
        made = prepare("shakespeare", progress=False)
        play = made.vocab.decode(made.train) + made.vocab.decode(made.valid)
        assert play == PLAY.decode()
        assert (made.name, made.report["cleaning"]) == ("shakespeare", "verbatim")
    assert len(server.requests) == 1


def test_panchatantra_consists_of_the_tales_of_its_books(server: StandIn) -> None:
    head = "The Project Gutenberg eBook of Tales\r\n\r\n*** START OF THE PROJECT GUTENBERG EBOOK TALES ***\r\n\r\n\r\n"
    foot = "\r\n\r\n*** END OF THE PROJECT GUTENBERG EBOOK TALES ***\r\n\r\nLicence. " + "words " * 100
    for book in BOOKS:
        tale = f"THE TALE OF {book}\r\n\r\nBook {book}:\r\n“once” {'upon a time ' * 40}\r\n\r\nThe end."
        server.files[f"/cache/epub/{book}/pg{book}.txt"] = (head + tale + foot).encode()
    made = prepare("panchatantra", progress=False)
    expected = [f'Book {book}: "once" {"upon a time " * 39}upon a time\nThe end.' for book in sorted(BOOKS, key=str)]
    assert (made.vocab.decode(made.train), made.vocab.decode(made.valid)) == ("".join(expected[:-1]), expected[-1])
    assert made.report["cleaning"] == "story"
    assert len(server.requests) == len(BOOKS)


@pytest.mark.parametrize("corpus", ["tinystories", "shakespeare"])
@pytest.mark.parametrize(("proxy", "reason"), [("socks5://127.0.0.1:9", "socksio"), ("socks9://x", "Unknown scheme")])
def test_a_proxy_that_cannot_be_used_is_named(
    server: StandIn, tmp_path: Path, corpus: str, proxy: str, reason: str
) -> None:
    script = f"from train.text.corpus import prepare; prepare({corpus!r})"
    environment = server.environment(tmp_path) | {"ALL_PROXY": proxy, "no_proxy": ""}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    said = run.stderr.splitlines()[-1]
    assert said.startswith("train.text.reading.CorpusError: ") and reason in said
    assert said.endswith("): check the network and run again")


def test_a_failed_download_is_reported(server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = "from train.text.corpus import prepare; prepare('tinystories')"
    command, environment = [sys.executable, "-c", script], server.environment(tmp_path)
    said = subprocess.run(command, env=environment, capture_output=True, text=True).stderr.splitlines()[-1]
    hub = r"roneneldan/TinyStories/TinyStories-train.txt could not be downloaded \(.*404.*\)"
    assert re.search(rf"{hub}: check the network and run again$", said)
    url = f"{server.url}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    again = r"\): check the network and run again$"
    with pytest.raises(CorpusError, match=rf"^{url} could not be downloaded \(Client error '404 Not Found'.*{again}"):
        prepare("shakespeare", progress=False)
    monkeypatch.setenv("GITHUB_RAW_URL", "http://127.0.0.1:1")  # nothing listens on this port
    with pytest.raises(CorpusError, match=rf"could not be downloaded \(.*refused{again}"):
        prepare("shakespeare", progress=False)
    assert not list(tmp_path.rglob("*.txt"))
