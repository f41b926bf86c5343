"""Tellers: where a sentence ends, which draft is kept, when it is settled, and how a story ends."""
# ruff: noqa: RUF001 (Chinese punctuation looks like ASCII)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from model.drafts import Origin
from model.sampling import Sampling
from model.sentences import Beam, Draft, repeated_pairs
from model.storyteller import Storyteller
from model.teller import DraftTeller, best_beams, settle, story_pieces
from model.vocab import Vocab

VOCAB = Vocab.ascii()
CONTEXT = 64


def drawn(text: str, before: str = "", limit: int = 220) -> str:
    """Returns the part of the text that a draft after `before` takes, including |, the end of the story."""
    draft = Draft(Beam([], before), limit)
    for i, symbol in enumerate(text):
        draft.write(i, "" if symbol == "|" else symbol, 0.0)
        if draft.done:
            return text[: len(draft.ids)]
    return "unfinished"


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (" He ran. She sat.", " He ran."),
        (" Who? He.", " Who?"),
        ("\nTom said no!\nAnn", "\nTom said no!"),
        (" no stop\n Tom", " no stop\n"),
        ("\n\n He ran. x", "\n\n He ran."),
        (' "Go!" he said. x', ' "Go!"'),
        (' "Go! Now." x', ' "Go!'),
        (' He said, "No." x', ' He said, "No."'),
        (" The end|", " The end|"),
        ("|", "|"),
        (" „Geh!“, sagte er. x", " „Geh!“"),
        (" «Va\u202f!\u00a0» Il y va.", " «Va\u202f!\u00a0»"),
        (" «Va\u00a0!\u00a0Il y va.", " «Va\u00a0!\u00a0"),
        (" वह गया। वह आया।", " वह गया।"),
        ("他说：“好！”她说", "他说：“好！”"),
        ("「好。行」", "「好。"),
    ],
)
def test_where_a_sentence_ends(text: str, taken: str) -> None:
    assert drawn(text) == taken


def test_a_quotation_may_be_open_before() -> None:
    assert drawn(' Now." x', before='"Go!') == ' Now."'
    assert drawn(' Now." x', before='"Go!"') == " Now."
    assert drawn(' Now." x', before='"Go!\n') == " Now."  # a quotation ends with its line
    assert drawn("abcdef", limit=4) == "abcd"


def beam(text: str, nats: float = 0.0, **more) -> Beam:
    return Beam([], text, symbols=len(text), nats=nats, **more)


def test_the_best_beams_are_chosen_and_the_first_of_equal_ones() -> None:
    good, bad, same = beam("a" * 20, 5.0), beam("b" * 20, 9.0), beam("a" * 20, 5.0, origin=(3, 3))
    assert best_beams([bad, good, same], 3) == [good, bad]
    assert best_beams([bad, good, same], 1) == [good]
    assert best_beams([beam("a"), beam("a", ended=True)], 2) == [beam("a"), beam("a", ended=True)]


def test_a_short_text_is_no_better_for_being_short() -> None:
    assert beam(" Hi.", 2.0).score < beam(" Hello there, dear.", 2.5).score


def test_any_text_is_better_than_none() -> None:
    """An immediate end costs little, because it is only one symbol."""
    nothing = Beam([], "Tom", unsettled=("",), symbols=1, nats=0.1, ended=True)
    assert best_beams([nothing, beam("q" * 12, 90.0)], 1) == [beam("q" * 12, 90.0)]
    assert best_beams([nothing], 1) == [nothing]
    for seed in range(20):  # half of all drafts end immediately
        pieces, _ = tell(lambda read: "|x" if read == "Tom" else "." if read[-1] == "x" else "|", seed=seed, drafts=16)
        assert pieces == ["x."]


def test_repeats_cost() -> None:
    before = beam("The cat sat on the mat.", cached=1)

    def extended(text: str) -> Beam:
        draft = Draft(before, 220)
        for symbol in text:
            draft.write(0, symbol, 0.1)
        return draft.extended(read=0)

    fresh, again, inside = (
        extended(text)
        for text in (" A dog ran up a big hill.", " The cat sat on the big hill.", " He ran on and on and on and on.")
    )
    assert (fresh.repeats, fresh.words) == (0, 7)
    assert again.repeats == 2  # "the cat sat on", "cat sat on the"
    # "on and on and" and "and on and on" again, and five word pairs of which only two differ
    assert inside.repeats == 2 + 4
    assert fresh.score > again.score


@pytest.mark.parametrize(
    ("sentence", "count"),
    [
        (" The cat saw the dog.", 0),
        (" The cat saw the cat.", 1),
        (" Tom and Tom ran.", 1),
        (' Tom said, "I am sad, Tom!"', 1),
        (" I know that I can.", 0),
        (" He ran and ran.", 0),
    ],
)
def test_repeated_pairs_of_a_sentence(sentence: str, count: int) -> None:
    assert repeated_pairs(sentence) == count


def test_a_stock_phrase_is_no_better_for_being_cheap() -> None:
    def extended(nats: float) -> Beam:
        return Draft(beam("Tom."), 220, ids=[0] * 20, text=" A big wind came up.", nats=nats).extended(read=0)

    assert extended(0.5).score == extended(4.0).score > extended(4.1).score


def test_a_sentence_is_settled_if_all_share_it_or_three_others_follow_it() -> None:
    one, two, three = (beam("", unsettled=sentences) for sentences in (("A.", "B."), ("A.", "C."), ("D.", "B.", "C.")))
    settled, left = settle([one, two])
    assert settled == ["A."] and [each.unsettled for each in left] == [("B.",), ("C.",)]
    assert settle([one, three]) == ([], [one, three])
    four = beam("", unsettled=("D.", "B.", "C.", "E."))
    # three sentences follow D. in the best beam: the other one, which does not have D., is dropped
    settled, left = settle([four, one])
    assert settled == ["D.", "B.", "C.", "E."] and [each.unsettled for each in left] == [()]
    assert settle([beam("x", unsettled=("A.", "B."))])[0] == ["A.", "B."]


class Written:
    """`Drafts` of a made-up network: after `text`, each of the symbols `following(text)` is equally likely."""

    def __init__(self, following: Callable[[str], Sequence[str]]) -> None:
        self.following = following
        self.rows: list[str] = [""]
        self.start = [0]

    def reset(self) -> None:
        self.rows, self.start = [""], [0]

    def logits(self, text: str) -> np.ndarray:
        logits = np.full(len(VOCAB), -50, np.float32)
        for symbol in self.following(text):
            logits[VOCAB.end if symbol == "|" else VOCAB.stoi[symbol]] = 0
        return logits

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        self.rows[0] += "".join("" if id == VOCAB.end else VOCAB.itos[id] for id in ids)
        self.start = [len(self.rows[0])]
        return self.logits(self.rows[0])

    def branch(self, origins: Sequence[Origin], rows: int) -> None:
        self.rows = [self.rows[row][: self.start[row] + n] for row, n in origins]
        self.start = [len(row) for row in self.rows]

    def step(self, ids: Sequence[int]) -> np.ndarray:
        self.rows = [row + VOCAB.itos[id] for row, id in zip(self.rows, ids, strict=False)] + self.rows[len(ids) :]
        return np.stack([self.logits(row) for row in self.rows[: len(ids)]])


def tell(following: Callable[[str], Sequence[str]], **settings) -> tuple[list[str], DraftTeller]:
    sampling = Sampling(**{"temperature": 1.0, "seed": 1, "drafts": 4} | settings)
    teller = DraftTeller(VOCAB, "Tom", sampling, CONTEXT)
    return [piece for piece in story_pieces(teller, Written(following)) if piece], teller


def script(text: str) -> Callable[[str], Sequence[str]]:
    """Returns a `following` in which every symbol is certain."""
    return lambda read: text[len(read) - len("Tom")]


def test_a_story_is_told_by_sentences_and_ends_by_itself() -> None:
    pieces, teller = tell(script(' ran. "Hi!" he said.\nThe end.|'))
    assert pieces == [" ran.", ' "Hi!"', " he said.", "\nThe end."]
    assert teller.over and teller.ended


@pytest.mark.parametrize(
    ("length", "pieces", "ended"),
    [
        (100, [" ran.", " Ann sat."], True),
        (14, [" ran.", " Ann sat."], False),
        (13, [" ran."], False),
        (3, [" ra"], False),
    ],
)
def test_a_story_that_reaches_its_length_ends_with_a_whole_sentence(
    length: int, pieces: list[str], ended: bool
) -> None:
    found, teller = tell(script(" ran. Ann sat.|"), length=length)
    assert (found, teller.over, teller.ended) == (pieces, True, ended)


def test_the_likelier_draft_is_kept() -> None:
    """After " a" every symbol is certain; after " b" eight letters are equally likely."""

    def following(read: str) -> str:
        text = read.removeprefix("Tom")
        if len(text) < 2:
            return " " if not text else "ab"
        if len(text) == 22:
            return "."
        if len(text) > 22:
            return "|"
        return "a" if text[1] == "a" else "cdefghij"

    for seed in range(10):
        assert tell(following, drafts=8, seed=seed)[0] == [" " + "a" * 21 + "."]


def test_beams_find_a_better_story_than_single_sentences() -> None:
    """A certain first sentence leads to an expensive second one, and the other way round."""

    def following(read: str) -> str:
        first, _, second = read.removeprefix("Tom").partition(".")
        if not second and "." not in read:
            if not first:
                return " "
            return "ab" if len(first) == 1 else "." if len(first) == 14 else "a" if first[1] == "a" else "bc"
        if len(second) == 30:
            return "."
        if len(second) > 30:
            return "|"
        return " " if not second else "xyzuvwst" if first[1] == "a" else "x"

    greedy, beams = (tell(following, drafts=8, beams=beams, seed=3)[0] for beams in (1, 4))
    assert greedy[0] == " " + "a" * 13 + "."
    assert beams[0][1] == "b" and "".join(beams).endswith(" " + "x" * 29 + ".")


def test_a_shorter_story_is_the_beginning_of_a_longer_one(storyteller: Storyteller) -> None:
    def story(length: int) -> str:
        sampling = Sampling(length=length, temperature=1.0, seed=4, drafts=3, beams=2, stop_at_end=False)
        return "".join(storyteller.tell("Once", sampling))

    whole = story(400)
    for length in (1, 10, 50, 100, 399):
        part = story(length)
        assert 0 < len(part) <= length and whole.startswith(part)
        assert story(len(part)) == part  # so a link can repeat a story that was stopped


def test_greedy_drafts_are_all_alike_so_one_is_drawn(storyteller: Storyteller) -> None:
    one = Sampling(length=60, temperature=0)
    assert "".join(storyteller.tell("Once", replace(one, drafts=8, beams=3))) == "".join(storyteller.tell("Once", one))


def test_settings_reach_every_draft(storyteller: Storyteller) -> None:
    """If only one symbol is possible at each step, all drafts are equal."""
    one = "".join(storyteller.tell("Once", Sampling(length=20, temperature=1.0, top_k=1, seed=1, stop_at_end=False)))
    many = Sampling(length=20, temperature=1.0, top_k=1, seed=9, drafts=3, stop_at_end=False)
    assert one.startswith("".join(storyteller.tell("Once", many)))
