"""Italian sentences with their English, made by one grammar: pairs to learn translation from.

The Italian is that of :mod:`train.demos.italian`, word for word. :class:`PairDraft` extends its
draft, and says in English what the draft writes in Italian. The two differ in more than words:

- adjectives change sides (un libro interessante, an interesting book), and so do possessors (la zia
  di Laura, Laura's aunt) and the speaker (io e Marco, Marco and I);
- adverbs move: spesso to the verb, ieri and ogni sera to the end of their clause;
- English has do for negations and needs a pronoun where Italian has none (se Laura avesse letto il
  libro, avrebbe ..., if Laura had read the book, she would have ...);
- a word depends on others: dei libri are "some books" or "about the books", a film is watched and a
  painting looked at, and ciao is hello at first, and goodbye at the end.

The English is plain: one form for each Italian tense, and no contractions. Both languages begin
sentences in lower case. Every Italian sentence has one English one.

    for pair in sentence_pairs(3, seed=0, held_out=True):
        print(pair.italian, pair.english, sep="\t")

As there, an eighth of the *combinations* (ragazza + stanco, zaino + definite article) never appears
in what is written for training, and every held-out pair contains one of them; so none of these
sentences is in the training text, whatever the seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import train.demos.italian_english_lexicon as english
import train.demos.italian_lexicon as italian
from train.demos.italian import is_held_out
from train.demos.italian_english_lexicon import EnglishVerb
from train.demos.italian_grammar import Draft, Subject
from train.demos.italian_lexicon import NAMES, Adjective, Noun, Verb


@dataclass(frozen=True, kw_only=True)
class SentencePair:
    """A sentence in both languages."""

    italian: str
    english: str


def sentence_pairs(count: int, *, seed: int, held_out: bool) -> Iterator[SentencePair]:
    """`count` pairs without a held-out combination; or, if `held_out`, each with one or more."""
    random = Random(seed)
    while count > 0:
        draft = PairDraft(random)
        draft.compose()
        if any(map(is_held_out, draft.pairs)) == held_out:
            yield SentencePair(italian=draft.text, english=draft.translation())
            count -= 1


def write_pairs(path: str | Path, count: int, *, seed: int, held_out: bool) -> None:
    """Write `count` pairs, all different: Italian, a tab, English; the same bytes everywhere.

    Raises ValueError if the draws repeat one another so much that `count` is out of reach.
    """
    pairs: dict[str, str] = {}
    for pair in sentence_pairs(2 * count + 100, seed=seed, held_out=held_out):
        pairs[pair.italian] = pair.english
        if len(pairs) == count:
            break
    if len(pairs) < count:
        raise ValueError(
            f"count = {count:,} is more than the grammar gives without repeating itself: "
            f"{len(pairs):,} different sentences in {2 * count + 100:,} draws"
        )
    lines = "".join(f"{source}\t{target}\n" for source, target in pairs.items())
    Path(path).write_text(lines, encoding="utf-8", newline="\n")


# ---- phrases, as far as they are known while a sentence is written ------------------------------


@dataclass(kw_only=True)
class NounPhrase:
    """a red book, those books, Laura's aunt, that aunt of Laura's."""

    noun: Noun
    determiner: str  # definite, indefinite, demonstrative, other, unique
    is_plural: bool = False
    adjective: str = ""
    owner: str = ""

    def __str__(self) -> str:
        noun = english.NOUNS[self.noun.singular][self.is_plural]
        words = [english.BEFORE_A_NOUN.get(self.adjective, self.adjective), noun]
        words = [word for word in words if word]
        if self.determiner == "indefinite":
            words.insert(0, "some" if self.is_plural else english.article_before(words[0]))
        elif self.determiner == "demonstrative":
            words.insert(0, "those" if self.is_plural else "that")
            words += ["of", f"{self.owner}'s"] if self.owner else []
        elif self.determiner == "other":
            words.insert(0, "other" if self.is_plural else "another")
        else:
            words.insert(0, f"{self.owner}'s" if self.owner else "the")
        return " ".join(words)


@dataclass(kw_only=True)
class Predicate:
    """does not read, usually went out, used to look, have you seen."""

    verb: EnglishVerb
    tense: str
    person: int  # 0 to 5: I, you, he/she/it, we, you, they
    is_negated: bool = False
    is_question: bool = False  # these have but one tense, passato prossimo, and one person
    frequency: str = ""  # usually, often

    def __str__(self) -> str:
        words = [self.frequency, *self._auxiliary_and_verb(), self.verb.adverb]
        return " ".join(word for word in words if word)

    def _auxiliary_and_verb(self) -> tuple[str, ...]:
        base, participle = self.verb.base, self.verb.participle
        if self.is_question:
            return ("have", "you", participle)
        auxiliary, *rest = {
            "presente": ("does" if self.person == 2 else "do", base),
            "imperfetto": ("did", base) if self.frequency else ("did", "use", "to", base),
            "passato prossimo": ("did", base),
            "futuro": ("will", base),
            "condizionale": ("would", base),
            "congiuntivo trapassato": ("had", participle),
            "condizionale passato": ("would", "have", participle),
        }[self.tense]
        if self.is_negated:
            return (auxiliary, "not", *rest)
        if auxiliary == "did":
            return ("used", "to", base) if "use" in rest else (self.verb.past,)
        if auxiliary in ("do", "does"):
            return (self.verb.third_person if auxiliary == "does" else base,)
        return (auxiliary, *rest)


_BE = {"presente": ("am", "are", "is", "are", "are", "are"), "imperfetto": ("was", "were", "was")}


def be(tense: str, person: int, is_negated: bool) -> str:
    """is, were not, will be, would not be."""
    if tense in ("futuro", "condizionale"):
        first, rest = ("will" if tense == "futuro" else "would"), " be"
    else:
        forms = _BE[tense]
        first, rest = (forms[person] if person < len(forms) else "were"), ""
    return first + " not" * is_negated + rest


def people(name: str) -> str:
    """io e Laura: Laura and I. tu e Marco: you and Marco. lei: she."""
    names = [english.PRONOUNS.get(word, word) for word in name.split(" e ")]
    return " and ".join(sorted(names, key=lambda word: word == "I"))


def pronoun(subject: Subject) -> str:
    """Whom a silent subject is."""
    if subject.person == 2:
        return "she" if subject.gender == "f" else "he"
    return ("I", "you", "", "we", "you", "they")[subject.person]


# ---- the draft ----------------------------------------------------------------------------------


class PairDraft(Draft):
    """An Italian sentence while it is written, and the English one beside it.

    The methods of the Italian draft stay as they are. What they write word by word is translated
    word by word; the parts that inflect or move are overridden here: each lets the Italian be
    written, sees what was drawn, and says it in English.
    """

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.said: list[str | NounPhrase | Predicate] = []
        self.is_quiet = False  # what is being written is part of something that is said as a whole
        self.is_question = False
        self.drawn = ""  # what `weighted` gave last
        self.before_verb = ""  # an adverb that waits for the verb
        self.at_end = ""  # one that waits for the end of the clause

    def translation(self) -> str:
        """The sentence in English."""
        text = " ".join(str(part) for part in self.said if str(part))
        for mark in ".,?":
            text = text.replace(f" {mark}", mark)
        return text

    def say(self, *parts: str | NounPhrase | Predicate) -> None:
        self.said += parts

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Until the end of the block, what is written word by word is not translated so."""
        before, self.is_quiet = self.is_quiet, True
        yield
        self.is_quiet = before

    def weighted(self, weights: Mapping[str, int]) -> str:
        self.drawn = super().weighted(weights)
        return self.drawn

    def write(self, *words: str) -> None:
        super().write(*words)
        if self.is_quiet:
            return
        for word in words:
            if word in (".", ",", "e"):  # the clause is at its end
                self.say(self.at_end)
                self.at_end = ""
            if word == "ciao" and self.said:
                self.say("goodbye")
            elif word in NAMES:
                self.say(word)
            else:
                self.say(_FIXED[word])

    # ---- noun phrases

    def noun_phrase(self, noun: Noun, plural: bool, determiners: Mapping[str, int]) -> None:
        with self.quiet():
            super().noun_phrase(noun, plural, determiners)
        determiner = "unique" if "unique" in noun.tags else self.drawn
        self.say(NounPhrase(noun=noun, determiner=determiner, is_plural=plural))

    def adjective(self, subject: Subject, adjective: Adjective) -> None:
        with self.quiet():
            super().adjective(subject, adjective)
        word = english.ADJECTIVES[adjective.lemma]
        described = self.said[-1]
        if isinstance(described, NounPhrase):  # un libro rosso
            described.adjective = word
        else:  # il libro è rosso
            self.say(word)

    def object(self, noun: Noun, *, preposition: str = "", negated: bool = False) -> None:
        phrase = NounPhrase(noun=noun, determiner="definite")
        if preposition:  # which Italian writes together with the article
            self.say(phrase)
        start = len(self.text)
        with self.quiet():
            super().object(noun, preposition=preposition, negated=negated)
        if preposition and noun.plural:
            plural = italian.contraction(preposition, noun.plural, noun.gender, plural=True)
            phrase.is_plural = self.text[start:].split()[0] == plural

    # ---- subjects

    def introduce(self, subject: Subject) -> None:
        with self.quiet():
            super().introduce(subject)
        if subject.noun is None:
            self.say(people(subject.name))
            return
        phrase = self.said[-1]
        assert isinstance(phrase, NounPhrase)
        last = self.text.split()[-1]
        phrase.owner = last if last in NAMES else ""

    # ---- clauses

    def verb(self, subject: Subject, verb: Verb, tense: str, *, decidable: bool = True) -> None:
        predicate = Predicate(
            verb=english.VERBS[verb.infinitive],
            tense=tense,
            person=subject.person,
            is_negated=self.text.endswith(" non"),
            is_question=self.is_question,
            frequency=self.before_verb,
        )
        self.before_verb = ""
        with self.quiet():
            super().verb(subject, verb, tense, decidable=decidable)
        self.say(predicate)

    def complement(self, subject: Subject, verb: Verb, negated: bool) -> None:
        start, place = len(self.text), len(self.said)
        with self.quiet():
            super().complement(subject, verb, negated)
        written = self.text[start:].strip()
        predicate = self.said[place - 1]
        assert isinstance(predicate, Predicate)
        if written in verb.phrases:
            staying = english.STAYING if verb.infinitive == "restare" else {}
            self.say(staying.get(written) or english.PHRASES[written])
            return
        if len(self.said) == place:  # a name, not an object
            self.say(written.split()[-1])
        what = self.said[place]
        if isinstance(what, NounPhrase):
            predicate.verb = english.verb_before(verb.infinitive, what.noun.singular)
        self.said.insert(place, predicate.verb.preposition)

    def clause(self, subject: Subject, verb: Verb, tense: str, *, is_silent: bool = False) -> None:
        if is_silent:
            self.say(pronoun(subject))
        super().clause(subject, verb, tense, is_silent=is_silent)

    def lead(self, leads: Sequence[str]) -> None:
        start = len(self.text)
        with self.quiet():
            super().lead(leads)
        if written := self.text[start:].strip():
            words, place = english.LEADS[written]
            if place == "front":
                self.say(words)
            elif place == "verb":
                self.before_verb = words
            else:
                self.at_end = words

    # ---- sentences

    def be(self, subject: Subject, tense: str) -> None:
        start = len(self.text)
        with self.quiet():
            super().be(subject, tense)
        is_negated = self.text[start:].split()[0] == "non"
        self.say(be(tense, subject.person, is_negated))

    def comma(self, is_written: bool) -> None:
        """English has it in any case."""
        super().comma(is_written)
        if not is_written:
            self.say(",")

    def question(self, name: str) -> None:
        self.is_question = True
        super().question(name)


def _fixed() -> dict[str, str]:
    """With what is written outside of noun phrases: "non", and where things are, nel giardino."""
    fixed = {"non": "", **english.FIXED}
    for places in ("in", "su"):
        for noun in italian.NOUNS:
            word = italian.contraction(places, noun.singular, noun.gender, plural=False)
            fixed[word] = {"in": "in the", "su": "on the"}[places]
            fixed.setdefault(noun.singular, english.NOUNS[noun.singular][0])
    return fixed


_FIXED = _fixed()
