"""The rule of telling: machines that are fed logits and ask for symbols, whoever runs the network.

Shapes: R rows, a draft each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from model.decoder import CHUNK, Decoder
from model.drafts import BACK, Drafts, Origin
from model.sampling import Sampling, pick, pick_each
from model.sentences import WHOLE, Beginning, Draft
from model.vocab import Vocab

SENTENCE = 220  # symbols after which a draft ends wherever it is


class Prompt(NamedTuple):
    """A prompt as the model reads it."""

    text: str  # all of it that the vocabulary has
    ids: list[int]  # what opens a story and the text, or the last `context` symbols of that
    dropped: list[str]  # the characters that the vocabulary lacks, once each
    cut: int  # how many characters at the start of `text` do not fit into `ids`


def prepare(prompt: str, vocab: Vocab, context: int) -> Prompt:
    """The prompt as a model with this vocabulary and context reads it, and what of it is lost."""
    text, dropped = vocab.fit(prompt)
    ids = [vocab.start, *vocab.encode(text)][-context:]
    return Prompt(text, ids, dropped, cut=max(0, len(text) - context))


class Teller:
    """Tells with one draft: reads `unread`, is given the logits after it, and so on until it is `over`."""

    def __init__(self, vocab: Vocab, prompt: str, sampling: Sampling, context: int) -> None:
        self.vocab, self.sampling = vocab, sampling
        self.generator = np.random.default_rng(sampling.seed)
        self.prompt = prepare(prompt, vocab, context)
        self.unread, self.left = self.prompt.ids, sampling.length
        self.over = self.ended = False  # ended: by the model

    def step(self, decoder: Decoder) -> str:
        """What one run of the network adds to the story, through a decoder that has read nothing else."""
        return self.take(decoder.feed(self.unread))

    def take(self, logits: np.ndarray) -> str:
        """What the logits (V,) after `unread` add to the story: a character, or nothing where the model ends it."""
        chosen = pick(allowed(logits, self.vocab, self.sampling), self.sampling, self.generator)
        if chosen == self.vocab.end:
            self.over = self.ended = True
            return ""
        self.unread, self.left = [chosen], self.left - 1
        self.over = not self.left
        return self.vocab.itos[chosen]


class Read(NamedTuple):
    """Asks for the logits after these ids, behind what was read; `anew` to forget that before."""

    ids: list[int]
    anew: bool


class Step(NamedTuple):
    """Asks for the logits after one symbol more in each row; if there are origins, the rows branch before.

    There may be more origins than rows: nothing is read behind the others, but that they hold is kept.
    """

    ids: list[int]
    origins: list[Origin]


class DraftTeller:
    """Tells with several drafts of each sentence: does what it `asks`, is given the logits, until it is `over`.

    The drafts of a sentence are drawn side by side, a row each, and the best beginnings of the story go on: one, or as
    many as there are `beams`. A sentence is settled, and never changes, once all of them share it or when `BACK` others
    follow it in the best one; those that lack it end there. When the best one has ended, the story has.

    The length has no part in this: of one seed, a shorter story is the beginning of a longer one.
    """

    def __init__(self, vocab: Vocab, prompt: str, sampling: Sampling, context: int) -> None:
        self.vocab, self.sampling, self.context = vocab, sampling, context
        self.generator = np.random.default_rng(sampling.seed)
        self.rows, self.beams = sampling.drafts * sampling.beams, sampling.beams
        self.limit = max(1, min(SENTENCE, context // 2))
        self.room = context - self.limit + 1  # symbols that leave room for a sentence
        self.prompt = prepare(prompt, vocab, self.room)
        self.left, self.part = sampling.length, ""  # the part of a sentence that is settled, and not told yet
        self.over = self.ended = False  # ended: by the model
        self.best: list[Beginning] = []  # of those whose sentence is drawn, and of those that have ended before
        self._read(Beginning(self.prompt.ids, self.prompt.text), self.prompt.ids)

    def step(self, drafts: Drafts) -> str:
        """What one run of the network adds to the story, often nothing, through drafts that have read nothing else."""
        if isinstance(self.asks, Step):
            if self.asks.origins:
                drafts.branch(self.asks.origins, len(self.asks.ids))
            return self.take(drafts.step(self.asks.ids))
        if self.asks.anew:
            drafts.forget()
        chunk, rest = self.asks.ids[:CHUNK], self.asks.ids[CHUNK:]
        logits = drafts.feed(chunk)
        if rest:
            self.asks = Read(rest, anew=False)
            return ""
        return self.take(logits)

    def take(self, logits: np.ndarray) -> str:
        """What the logits add to the story: (V,) after all that a `Read` has asked for, (R, V) after a `Step`."""
        logits = np.broadcast_to(logits, (len(self.running), logits.shape[-1]))
        nats = -log_softmax(logits)
        chosen = pick_each(allowed(logits, self.vocab, self.sampling), self.sampling, self.generator)
        drawn = []
        for row, (draft, id) in enumerate(zip(self.running, chosen, strict=True)):
            if not draft.done:
                draft.write(id, "" if id == self.vocab.end else self.vocab.itos[id], float(nats[row, id]))
                if draft.done:
                    drawn.append(draft.grown(self.read))
        if drawn:
            self.best = choose([*self.best, *drawn], self.beams)
        running = [draft for draft in self.running if not draft.done]
        if not running:
            return self._settle()
        # The rows of drafts that are drawn read what does not matter, until they are half of all.
        if isinstance(self.asks, Step) and 2 * len(running) > len(self.running):
            self._ask(self.running, [])
        else:
            self._ask(running, [(draft.row, self.read) for draft in running])
        return ""

    def _ask(self, running: list[Draft], origins: list[Origin]) -> None:
        """A symbol more of each draft, in rows that are as many, if they branch."""
        ids = [draft.ids[-1] if draft.ids else draft.parent.ids[-1] for draft in running]
        self.asks = Step(ids, origins and [*origins, *(way.origin for way in self.best)])
        if origins:
            self.running, self.read = running, 0
            for row, draft in enumerate(running):
                draft.row = row
            self.best = [replace(way, origin=(row, 0)) for row, way in enumerate(self.best, len(running))]
        self.read += 1

    def _settle(self) -> str:
        """Each draft is drawn: the best beginnings go on; returns what does not change any more."""
        settled, best = settle(self.best)
        self.best = [way for way in best if way.ended]
        live = [way for way in best if not way.ended]
        if best[0].ended:
            self.over = self.ended = True
            return self._write([*settled, *best[0].unsettled])
        if max(way.place for way in live) > self.room:  # the best goes on, its newer half if it is as long itself
            kept = live[0].place if live[0].place <= self.room else max(1, self.context // 2)
            self._read(live[0], live[0].ids[-kept:])
            return self._write([*settled, *live[0].unsettled])
        drafts = [Draft(way, self.limit) for way in live for _ in range(self.sampling.drafts)]
        self._ask(drafts, [draft.parent.origin for draft in drafts])
        return self._write(settled)

    def _write(self, drafts: list[str]) -> str:
        """As many whole sentences as there is room for; of the first of a story at least a part."""
        text = ""
        for draft in drafts:
            self.part += draft
            if len(self.part) > self.left:
                self.over, self.ended = True, False
                return text or self.part[: self.left if self.left == self.sampling.length else 0]
            if self.ended or WHOLE.search(self.part):  # else the draft was too long to be one
                text, self.part, self.left = text + self.part, "", self.left - len(self.part)
        self.over = self.over or not self.left
        return text

    def _read(self, way: Beginning, ids: list[int]) -> None:
        """A beginning goes on alone, with these of its symbols in memory."""
        way = replace(way, unsettled=(), place=len(ids))
        self.best, self.running = [], [Draft(way, self.limit) for _ in range(self.sampling.drafts)]
        self.asks, self.read = Read(ids, anew=True), 0


def told(teller: Teller | DraftTeller, decoder: Decoder | Drafts) -> Iterator[str]:
    """What each step adds to the story: of drafts often nothing. Closing the iterator stops at once."""
    while not teller.over:
        yield teller.step(decoder)


def choose(ways: list[Beginning], beams: int) -> list[Beginning]:
    """The best beginnings, so many of them, the best first."""
    different = {(way.text, way.ended): way for way in reversed(ways)}  # of equal ones the first
    return sorted(reversed(different.values()), key=lambda way: -way.score)[:beams]


def settle(best: list[Beginning]) -> tuple[list[str], list[Beginning]]:
    """The sentences that will not change, and the beginnings, the best first, that have them, without them."""
    settled = []
    while first := best[0].unsettled[:1]:
        agreed = [way for way in best if way.unsettled[:1] == first]
        if len(agreed) < len(best) and len(best[0].unsettled) <= BACK:
            break
        best = [replace(way, unsettled=way.unsettled[1:]) for way in agreed]
        settled += first
    return settled, best


def allowed(logits: np.ndarray, vocab: Vocab, sampling: Sampling) -> np.ndarray:
    """The logits (..., V) with the end mark ruled out where the story must go on."""
    if sampling.stop_at_end or vocab.end is None:
        return logits
    logits = logits.copy()
    logits[..., vocab.end] = -np.inf
    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (T, V) as the logarithms of probabilities, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
