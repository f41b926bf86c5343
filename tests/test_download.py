"""The named corpora, from servers on this machine that stand in for the Hub, GitHub and Project Gutenberg."""

import hashlib
import os
import subprocess
import sys
import threading
import time
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
DOWNLOADS = ".cache/corpus/downloads"
BLOCK = "bytes=10485760-"  # the Hub's client writes blocks of 10 MiB


class StandIn(ThreadingHTTPServer):
    """Serves `files` by path, version and range; `cut` bytes of a text come once, and no more before `hold` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, range
        self.cut: int | None = None
        self.hold = threading.Event()

    def downloads(self) -> list[tuple[str, str | None]]:
        """Name and range of each text that was asked for."""
        texts = [r for r in self.requests if r[0] == "GET" and r[1].endswith(".txt")]
        return [(path.rsplit("/", 1)[1], asked) for _, path, asked in texts]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *args: object) -> None:
        """Keeps the test's output clean."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.requests.append((self.command, self.path, asked))
        body = self.server.files.get(self.path)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(404 if body is None else 206 if start else 200)
        body = body or b""
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", f'"{version(body)}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET" and self.server.cut:
            self.wfile.write(body[: self.server.cut])
            self.server.cut, self.close_connection = None, True
            self.server.hold.wait(60)
        elif self.command == "GET":
            self.wfile.write(body[start:])


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


def version(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


def marked(stories: list[str]) -> bytes:
    return "".join(f"{story}\n{END}\n" for story in stories).encode()


def start(server: StandIn, name: str, folder: Path) -> subprocess.Popen[str]:
    """Prepares a corpus in a process of its own: the Hub's client reads its address once, when it is imported."""
    script = f"from train.text.corpus import prepare; c = prepare({name!r})\n"
    script += "print(c.report['train']['stories'], len(c.valid))"
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hub"), "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=pipe, stderr=pipe, text=True)


def from_the_hub(server: StandIn, name: str, folder: Path) -> tuple[str, str]:
    """What that process prints: the number of training stories and of validation symbols, and its errors."""
    with start(server, name, folder) as process:
        return process.communicate()


def test_tinystories_comes_from_the_hub_once(server: StandIn, tmp_path: Path) -> None:
    server.files[f"{HUB}TinyStoriesV2-GPT4-train.txt"] = marked([*STORIES, "Same"])
    server.files[f"{HUB}TinyStoriesV2-GPT4-valid.txt"] = marked(["same!"])
    (tmp_path / DOWNLOADS).mkdir(parents=True)
    (tmp_path / DOWNLOADS / ".TinyStoriesV2-GPT4-train.txt.older.part").write_bytes(b"of another version")
    for _ in range(2):
        assert from_the_hub(server, "tinystories-v2", tmp_path) == ("30 7\n", "")
    assert server.downloads() == [("TinyStoriesV2-GPT4-train.txt", None), ("TinyStoriesV2-GPT4-valid.txt", None)]


def test_a_killed_run_is_taken_up_by_the_next(server: StandIn, tmp_path: Path) -> None:
    body = marked(STORIES * (12_000_000 // len(marked(STORIES))))
    server.files[f"{HUB}TinyStories-train.txt"] = body
    server.files[f"{HUB}TinyStories-valid.txt"] = marked(["Another"])
    server.cut = 11_000_000
    with start(server, "tinystories", tmp_path) as process:
        deadline = time.monotonic() + 30
        while sum(part.stat().st_size for part in (tmp_path / DOWNLOADS).glob(".*.part")) < 10 << 20:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    server.hold.set()
    assert not (tmp_path / DOWNLOADS / "TinyStories-train.txt").exists()
    printed, _ = from_the_hub(server, "tinystories", tmp_path)
    assert printed == f"{body.count(END.encode())} 9\n"
    assert server.downloads()[:2] == [("TinyStories-train.txt", None), ("TinyStories-train.txt", BLOCK)]
    assert (tmp_path / DOWNLOADS / "TinyStories-train.txt").read_bytes() == body


def test_all_of_tinystories_is_one_command(server: StandIn, tmp_path: Path) -> None:
    """storyteller-full, its network and batch shrunk, from the Hub's two files to an artifact that tells."""
    names = [f"Story {i}: once upon a time Tom had a little car, and it was number {i}." for i in range(60)]
    server.files |= {
        f"{HUB}TinyStories-train.txt": marked(names[:50]),
        f"{HUB}TinyStories-valid.txt": marked(names[50:]),
    }
    small = "--steps 4 --batch-size 2 --layers 1 --heads 1 --width 32 --context 32 --no-compile --out full"
    command = [sys.executable, "-m", "train", "--preset", "storyteller-full", *small.split()]
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
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
    assert server.downloads() == [("input.txt", None)]


def test_panchatantra_is_the_tales_of_its_books(server: StandIn) -> None:
    head = "The Project Gutenberg eBook of Tales\r\n\r\n*** START OF THE PROJECT GUTENBERG EBOOK TALES ***\r\n\r\n\r\n"
    foot = "\r\n\r\n*** END OF THE PROJECT GUTENBERG EBOOK TALES ***\r\n\r\nLicence. " + "words " * 100
    for book in BOOKS:
        tale = f"THE TALE OF {book}\r\n\r\nBook {book}:\r\n“once” {'upon a time ' * 40}\r\n\r\nThe end."
        server.files[f"/cache/epub/{book}/pg{book}.txt"] = (head + tale + foot).encode()
    made = prepare("panchatantra", progress=False)
    expected = [f'Book {book}: "once" {"upon a time " * 39}upon a time\nThe end.' for book in sorted(BOOKS, key=str)]
    assert (made.vocab.decode(made.train), made.vocab.decode(made.valid)) == ("".join(expected[:-1]), expected[-1])
    assert made.report["cleaning"] == "story"
    assert [asked for _, asked in server.downloads()] == [None] * len(BOOKS)


def test_classic_needs_no_validation_file(server: StandIn) -> None:
    server.files["/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"] = PLAY
    made = prepare("shakespeare", cleaning="classic", progress=False)
    assert made.vocab.decode(made.train) + made.vocab.decode(made.valid) == PLAY.decode().replace("\n", " ")


def test_what_cannot_be_downloaded_says_so(server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"{server.url}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    with pytest.raises(CorpusError) as error:
        prepare("shakespeare", progress=False)
    assert str(error.value).startswith(f"{url} could not be downloaded (Client error '404 Not Found'")
    assert str(error.value).endswith("): check the network and run again")
    monkeypatch.setenv("GITHUB_RAW_URL", "http://127.0.0.1:1")  # nobody listens there
    with pytest.raises(CorpusError, match=r"could not be downloaded \(.*refused\): check the network and run again"):
        prepare("shakespeare", progress=False)
    assert not list((tmp_path / ".cache/corpus").glob("*.txt"))
