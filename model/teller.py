"""How a story is told: tellers are given logits and ask for symbols to be read. Somebody else runs the network.

Shapes: R rows (one draft each), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from model.decoder import CHUNK, Decoder
from model.drafts import MAX_UNSETTLED, Drafts, Origin
from model.sampling import Sampling, pick, pick_each
from model.sentences import Beam, Draft
from model.vocab import Vocab
from model.writing import SENTENCE_END

SENTENCE = 220  # symbols after which a draft ends, even within a sentence


class Prompt(NamedTuple):
    """A prompt as the model reads it."""

    text: str  # the characters of it that the vocabulary has
    ids: list[int]  # the start symbol and the text, or the last `context` symbols of these
    dropped: list[str]  # the characters that the vocabulary does not have, once each
    cut: int  # how many characters at the start of `text` do not fit into `ids`

    @property
    def kept(self) -> int | None:
        """How many characters of the text the model reads: 0 if it knows none, None if it reads all that it knows."""
        return 0 if self.dropped and not self.text else len(self.text) - self.cut if self.cut else None


def prepare(prompt: str, vocab: Vocab, context: int) -> Prompt:
    """Returns the prompt as a model with this vocabulary and context reads it, and which parts of it are lost.

    A prompt of which no letter or digit is left, or only blanks, counts as none: its story begins from the start.
    """
    text, dropped = vocab.fit(prompt)
    count = str.isalnum if any(map(str.isalnum, prompt)) else str.strip
    if any(map(count, prompt)) and not any(map(count, text)):
        text, dropped = "", list(dict.fromkeys([*dropped, *"".join((text if dropped else prompt).split())]))
    ids = [vocab.start, *vocab.encode(text)][-context:]
    return Prompt(text, ids, dropped, cut=max(0, len(text) - context))


class Teller:
    """Tells a story symbol by symbol: its caller reads `unread` and gives it the logits, until the story is `over`."""

    def __init__(self, vocab: Vocab, prompt: str, sampling: Sampling, context: int) -> None:
        self.vocab, self.sampling = vocab, sampling
        self.generator = np.random.default_rng(sampling.seed)
        self.prompt = prepare(prompt, vocab, context)
        self.unread, self.left = self.prompt.ids, sampling.length
        self.over = self.ended = False  # ended: the model ended the story, before `length`

    def step(self, decoder: Decoder) -> str:
        """Runs the network once. Returns what that adds to the story. The decoder must have read only this story."""
        return self.take(decoder.feed(self.unread))

    def take(self, logits: np.ndarray) -> str:
        """Takes the logits (V,) after `unread`. Returns the next character, or "" if the model ends the story."""
        chosen = pick(mask_end(logits, self.vocab, self.sampling), self.sampling, self.generator)
        if chosen == self.vocab.end:
            self.over = self.ended = True
            return ""
        self.unread, self.left = [chosen], self.left - 1
        self.over = not self.left
        return self.vocab.itos[chosen]


class Read(NamedTuple):
    """A request for the logits after these ids, which continue what was read. With `reset`, forget that first."""

    ids: list[int]
    reset: bool


class Step(NamedTuple):
    """A request for the logits after one more symbol in each row. If there are origins, the rows branch first.

    There may be more origins than ids: the rows of the others read nothing, but what they hold is kept.
    """

    ids: list[int]
    origins: list[Origin]


class DraftTeller:
    """Tells a story with several drafts of each sentence.

    Its caller does what `request` says and gives it the logits, until the story is `over`. The drafts of a sentence are
    drawn at the same time, a row each, and the best `beams` beginnings of the story continue. A sentence is settled,
    which means that it never changes, once all beams share it, or once `MAX_UNSETTLED` sentences follow it in the best
    beam; beams without that sentence are then dropped. When the best beam has ended, the story ends.

    The draws do not depend on the length: with the same seed, a shorter story is the beginning of a longer one.
    """

    def __init__(self, vocab: Vocab, prompt: str, sampling: Sampling, context: int) -> None:
        self.vocab, self.sampling, self.context = vocab, sampling, context
        self.generator = np.random.default_rng(sampling.seed)
        self.rows, self.beams = sampling.drafts * sampling.beams, sampling.beams
        self.limit = max(1, min(SENTENCE, context // 2))
        self.room = context - self.limit + 1  # a beam of at most this many symbols has room for another sentence
        self.prompt = prepare(prompt, vocab, self.room)
        self.left, self.pending = sampling.length, ""  # pending: settled text of a sentence that is not complete
        self.over = self.ended = False  # ended: the model ended the story, before `length`
        self.best: list[Beam] = []  # beams whose sentence is complete, or that have ended before
        self._read(Beam(self.prompt.ids, self.prompt.text), self.prompt.ids)

    def step(self, drafts: Drafts) -> str:
        """Runs the network once.

        Returns what that adds to the story, often "". The drafts must have read only this story.
        """
        if isinstance(self.request, Step):
            if self.request.origins:
                drafts.branch(self.request.origins, len(self.request.ids))
            return self.take(drafts.step(self.request.ids))
        if self.request.reset:
            drafts.reset()
        chunk, rest = self.request.ids[:CHUNK], self.request.ids[CHUNK:]
        logits = drafts.feed(chunk)
        if rest:
            self.request = Read(rest, reset=False)
            return ""
        return self.take(logits)

    def take(self, logits: np.ndarray) -> str:
        """Takes the logits, (V,) after a complete `Read` or (R, V) after a `Step`.

        Returns what they add to the story.
        """
        logits = np.broadcast_to(logits, (len(self.running), logits.shape[-1]))
        nats = -log_softmax(logits)
        chosen = pick_each(mask_end(logits, self.vocab, self.sampling), self.sampling, self.generator)
        drawn = []
        for row, (draft, id) in enumerate(zip(self.running, chosen, strict=True)):
            if not draft.done:
                draft.write(id, "" if id == self.vocab.end else self.vocab.itos[id], float(nats[row, id]))
                if draft.done:
                    drawn.append(draft.extended(self.read_since_branch))
        if drawn:
            self.best = best_beams([*self.best, *drawn], self.beams)
        running = [draft for draft in self.running if not draft.done]
        if not running:
            return self._settle()
        # Rows of finished drafts read symbols that do not matter. Branch without them once they are half of all rows.
        if isinstance(self.request, Step) and 2 * len(running) > len(self.running):
            self._ask(self.running, [])
        else:
            self._ask(running, [(draft.row, self.read_since_branch) for draft in running])
        return ""

    def _ask(self, running: list[Draft], origins: list[Origin]) -> None:
        """Requests one more symbol for each of the running drafts. With origins, they first branch into new rows."""
        ids = [draft.ids[-1] if draft.ids else draft.parent.ids[-1] for draft in running]
        self.request = Step(ids, origins and [*origins, *(beam.origin for beam in self.best)])
        if origins:
            self.running, self.read_since_branch = running, 0
            for row, draft in enumerate(running):
                draft.row = row
            self.best = [replace(beam, origin=(row, 0)) for row, beam in enumerate(self.best, len(running))]
        self.read_since_branch += 1

    def _settle(self) -> str:
        """Continues the best beams, once every draft is complete. Returns the text that will not change any more."""
        settled, best = settle(self.best)
        self.best = [beam for beam in best if beam.ended]
        unended = [beam for beam in best if not beam.ended]
        if best[0].ended:
            self.over = self.ended = True
            return self._write([*settled, *best[0].unsettled])
        # The context is full: only the best beam continues; if it is too long itself, its newer half is read again.
        if max(beam.cached for beam in unended) > self.room:
            kept = unended[0].cached if unended[0].cached <= self.room else max(1, self.context // 2)
            self._read(unended[0], unended[0].ids[-kept:])
            return self._write([*settled, *unended[0].unsettled])
        drafts = [Draft(beam, self.limit) for beam in unended for _ in range(self.sampling.drafts)]
        self._ask(drafts, [draft.parent.origin for draft in drafts])
        return self._write(settled)

    def _write(self, drafts: list[str]) -> str:
        """Returns the settled sentences that fit into the length.

        If not even the first sentence of the story fits, returns its beginning.
        """
        text = ""
        for draft in drafts:
            self.pending += draft
            if len(self.pending) > self.left:
                self.over, self.ended = True, False
                return text or self.pending[: self.left if self.left == self.sampling.length else 0]
            # A draft that reached its limit may end within a sentence: then the rest of the sentence is awaited.
            if self.ended or SENTENCE_END.search(self.pending):
                text, self.pending, self.left = text + self.pending, "", self.left - len(self.pending)
        self.over = self.over or not self.left
        return text

    def _read(self, beam: Beam, ids: list[int]) -> None:
        """Continues with this beam alone. `ids` are those of its symbols that are read into the empty cache."""
        beam = replace(beam, unsettled=(), cached=len(ids))
        self.best, self.running = [], [Draft(beam, self.limit) for _ in range(self.sampling.drafts)]
        self.request, self.read_since_branch = Read(ids, reset=True), 0


def story_pieces(teller: Teller | DraftTeller, decoder: Decoder | Drafts) -> Iterator[str]:
    """Runs a teller and yields what each step adds to the story, with drafts often "". Closing it stops at once."""
    while not teller.over:
        yield teller.step(decoder)


def best_beams(beams: list[Beam], count: int) -> list[Beam]:
    """Returns the best `count` different beams, the best first."""
    different = {(beam.text, beam.ended): beam for beam in reversed(beams)}  # of equal ones, keep the first
    return sorted(reversed(different.values()), key=lambda beam: -beam.score)[:count]


def settle(best: list[Beam]) -> tuple[list[str], list[Beam]]:
    """Returns the sentences that can no longer change, and the beams that begin with them.

    These beams have the sentences removed from `unsettled`. Other beams are dropped.

    The beams are sorted, the best first, before and after.
    """
    settled = []
    while first := best[0].unsettled[:1]:
        agreed = [beam for beam in best if beam.unsettled[:1] == first]
        if len(agreed) < len(best) and len(best[0].unsettled) <= MAX_UNSETTLED:
            break
        best = [replace(beam, unsettled=beam.unsettled[1:]) for beam in agreed]
        settled += first
    return settled, best


def mask_end(logits: np.ndarray, vocab: Vocab, sampling: Sampling) -> np.ndarray:
    """Returns the logits (..., V). If the story must not end, the end mark has the logit -inf."""
    if sampling.stop_at_end or vocab.end is None:
        return logits
    logits = logits.copy()
    logits[..., vocab.end] = -np.inf
    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the log probabilities, float64, for logits (T, V)."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
