"""The grammar behind :mod:`train.demos.italian`: what a sentence is, and how one is drawn.

`Draft` writes a sentence from left to right and records each place where agreement decides a form.
It is best read from the end: sentences consist of clauses, and clauses of subjects, verbs and noun
phrases.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import train.demos.italian_lexicon as lexicon
from train.demos.italian_lexicon import (
    ADJECTIVES,
    AUXILIARIES,
    NAMES,
    NOUNS,
    SIMPLE_TENSES,
    VERBS,
    Adjective,
    Noun,
    Verb,
)

Pair = tuple[str, str]

# Compound tenses, and the tense of the auxiliary that makes them.
_AUXILIARY_TENSE = {
    "passato prossimo": "presente",
    "congiuntivo trapassato": "congiuntivo imperfetto",
    "condizionale passato": "condizionale",
}
COUNTERFACTUAL = ("congiuntivo trapassato", "condizionale passato", "congiuntivo imperfetto")
ARTICLES = ("articolo definito", "articolo indefinito")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A form that the rest of the sentence decides: `text[start:end]`, one of `forms`."""

    start: int
    end: int
    forms: tuple[str, ...]
    kind: str
    pair: Pair  # the controller as the sentence has it, and the target: ("ragazze", "stanco")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence and what agrees in it.

    `agreements` are the forms to ask about: in a held-out sentence, only the held-out ones.
    `pairs` are all the combinations in the sentence, also those that cannot be asked about.
    """

    text: str
    agreements: tuple[Agreement, ...]
    pairs: tuple[Pair, ...]


# Determiners and their weights. After "non", "un libro" would have to be "nessun libro".
_ANY_DETERMINER = {"definite": 40, "indefinite": 38, "demonstrative": 14, "other": 8}
_SPECIFIC = {"definite": 70, "demonstrative": 30}
_NEWLY_INTRODUCED = {"indefinite": 80, "other": 20}

# Weights of the subjects, such that the most frequent form of a verb is about a third of its uses.
_SUBJECTS = {
    "io": 10,
    "tu": 10,
    "noi": 5,
    "voi": 5,
    "lui": 4,
    "lei": 4,
    "loro": 5,
    "io e": 7,
    "tu e": 7,
    "name": 15,
    "two names": 10,
    "noun": 11,
    "plural noun": 12,
}
_PRONOUNS = {"io": 0, "tu": 1, "lui": 2, "lei": 2, "noi": 3, "voi": 4, "loro": 5}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of a clause. `name` has no determiner: Laura e Marco, ragazze, io."""

    name: str
    person: int  # 0 to 5: io, tu, lui/lei, noi, voi, loro
    gender: str
    gender_is_visible: bool = True
    noun: Noun | None = None

    @property
    def is_plural(self) -> bool:
        return self.person >= 3

    @property
    def gender_and_number(self) -> int:
        """Index into m.sg, f.sg, m.pl, f.pl."""
        return 2 * self.is_plural + (self.gender == "f")

    def overlaps(self, name: str) -> bool:
        return not set(self.name.split(" e ")).isdisjoint(name.split(" e "))

    def may_contrast_with(self, other: "Subject") -> bool:
        """Laura and then Marco; not Laura and then Laura e Marco, nor noi and then io e Marco."""
        return not self.overlaps(other.name) and (
            self.person != other.person or self.person in (2, 5)
        )


def _gender(names: Iterable[str]) -> str:
    """A group is feminine only if all its members are."""
    return "f" if all(name in lexicon.FEMALE_NAMES for name in names) else "m"


@cache
def _nouns(tags: str) -> tuple[Noun, ...]:
    return tuple(noun for noun in NOUNS if noun.tags & set(tags.split()))


@cache
def _adjectives(tags: frozenset[str]) -> tuple[Adjective, ...]:
    return tuple(adjective for adjective in ADJECTIVES if adjective.tags & tags)


@cache
def _things() -> tuple[Noun, ...]:
    """Nouns that adjectives can describe and that are not people."""
    return tuple(n for n in NOUNS if "person" not in n.tags and _adjectives(n.tags))


@cache
def _verbs_with(auxiliary: str) -> tuple[Verb, ...]:
    return tuple(verb for verb in VERBS if verb.auxiliary == auxiliary)


@cache
def _verbs_about(topics: str) -> tuple[Verb, ...]:
    return tuple(v for v in VERBS if not set(topics.split()).isdisjoint(v.topics.split()))


@cache
def _verbs_beside(verb: Verb) -> tuple[Verb, ...]:
    """Verbs for a second clause; two verbs of movement do not go together."""
    moves = verb.auxiliary == "essere"
    others = (v for v in _verbs_about(verb.topics) if v is not verb)
    return tuple(v for v in others if not (moves and v.auxiliary == "essere"))


def draw(random: Random) -> Sentence:
    """Draw a sentence."""
    draft = Draft(random)
    draft.compose()
    return Sentence(text=draft.text, agreements=tuple(draft.agreements), pairs=tuple(draft.pairs))


class Draft:
    """A sentence that is being written, from left to right."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.text = ""
        self.agreements: list[Agreement] = []
        self.pairs: list[Pair] = []

    def maybe(self, probability: float) -> bool:
        return self.random.random() < probability

    def weighted(self, weights: Mapping[str, int]) -> str:
        return self.random.choices(list(weights), weights=list(weights.values()))[0]

    def write(self, *words: str) -> None:
        for word in words:
            glued = self.text == "" or self.text.endswith("'") or word in (".", ",", "?")
            self.text += word if glued else " " + word

    def agree(
        self, index: int, forms: Sequence[str], kind: str, pair: Pair, *, decidable: bool = True
    ) -> None:
        """Write `forms[index]`, and record an agreement if the rest of the sentence decides it."""
        form = forms[index]
        self.write(form)
        self.pairs.append(pair)
        start, end = len(self.text) - len(form), len(self.text)
        if decidable and start > 0:
            forms = tuple(dict.fromkeys(forms))  # io and tu share avessi; the genders share verde
            self.agreements.append(
                Agreement(start=start, end=end, forms=forms, kind=kind, pair=pair)
            )

    # ---- noun phrases

    def noun_phrase(self, noun: Noun, plural: bool, determiners: Mapping[str, int]) -> None:
        form = noun.form(plural)
        determiner = "unique" if "unique" in noun.tags else self.weighted(determiners)
        if determiner == "definite":
            article = lexicon.definite(form, noun.gender, plural)
            self._article(article, lexicon.DEFINITE, (form, ARTICLES[0]), noun)
        elif determiner == "indefinite":
            article = lexicon.indefinite(form, noun.gender, plural)
            self._article(article, lexicon.INDEFINITE, (form, ARTICLES[1]), noun)
        elif determiner == "demonstrative":
            self.write(lexicon.demonstrative(form, noun.gender, plural))
        elif determiner == "other":
            masculine, feminine = ("altri", "altre") if plural else ("un altro", "un'altra")
            self.write(feminine if noun.gender == "f" else masculine)
        else:  # il mare: it takes no other article that could tell which one is right, so no pair
            self.write(lexicon.definite(form, noun.gender, plural))
        self.write(form)

    def _article(self, article: str, forms: tuple[str, ...], pair: Pair, noun: Noun) -> None:
        if article in forms:
            decidable = not noun.is_invariable
            self.agree(forms.index(article), forms, "article", pair, decidable=decidable)
        else:  # l', un'
            self.write(article)

    def adjective(self, subject: Subject, adjective: Adjective) -> None:
        one_form_for_both_genders = adjective.forms[0] == adjective.forms[1]
        self.agree(
            subject.gender_and_number,
            adjective.forms,
            "adjective",
            (subject.name, adjective.lemma),
            decidable=subject.gender_is_visible or one_form_for_both_genders,
        )

    def object(self, noun: Noun, *, preposition: str = "", negated: bool = False) -> None:
        is_destination = preposition not in ("", "di")  # nobody goes to the parks
        plural = noun.plural is not None and not is_destination and self.maybe(0.45)
        form = noun.form(plural)
        if preposition:
            self.write(lexicon.contraction(preposition, form, noun.gender, plural), form)
        else:
            is_specific = negated or "known" in noun.tags
            self.noun_phrase(noun, plural, _SPECIFIC if is_specific else _ANY_DETERMINER)
        adjectives = [a for a in _adjectives(noun.tags) if "predicative" not in a.tags]
        if adjectives and self.maybe(0.25):
            described = Subject(name=form, person=5 if plural else 2, gender=noun.gender)
            self.adjective(described, self.random.choice(adjectives))

    # ---- subjects

    def person(self, beside: Subject | None = None) -> Subject:
        """One person or several, none of whom is in `beside`."""
        subject = self._person()
        while beside and not subject.may_contrast_with(beside):
            subject = self._person()
        return subject

    def _person(self) -> Subject:
        drawn = self.weighted(_SUBJECTS)
        if drawn in _PRONOUNS:
            person = _PRONOUNS[drawn]
            gender = {"lui": "m", "lei": "f"}.get(drawn, self.random.choice("mf"))
            visible = drawn in ("lui", "lei")
            return Subject(name=drawn, person=person, gender=gender, gender_is_visible=visible)
        if drawn in ("io e", "tu e"):  # with Marco they are masculine, with Laura either gender
            other = self.random.choice(NAMES)
            visible = _gender([other]) == "m"
            gender = "m" if visible else self.random.choice("mf")
            person = 3 if drawn == "io e" else 4
            name = f"{drawn} {other}"
            return Subject(name=name, person=person, gender=gender, gender_is_visible=visible)
        if drawn in ("name", "two names"):
            names = self.random.sample(NAMES, 1 if drawn == "name" else 2)
            person = 2 if drawn == "name" else 5
            return Subject(name=" e ".join(names), person=person, gender=_gender(names))
        return self.noun_subject(_nouns("person"), plural=drawn == "plural noun")

    def noun_subject(self, nouns: Sequence[Noun], plural: bool) -> Subject:
        noun = self.random.choice([noun for noun in nouns if noun.plural or not plural])
        person = 5 if plural else 2
        return Subject(name=noun.form(plural), person=person, gender=noun.gender, noun=noun)

    def introduce(self, subject: Subject) -> None:
        if subject.noun is None:
            self.write(subject.name)
            return
        self.noun_phrase(subject.noun, subject.is_plural, _SPECIFIC)
        if "kin" in subject.noun.tags and self.maybe(0.2):  # a distractor before the verb
            self.write("di", self.random.choice(NAMES))

    # ---- clauses

    def compound_verb(self, subject: Subject) -> Verb:
        """Verbs of movement mostly with subjects that show their gender: only these teach it."""
        moves = self.maybe(0.5 if subject.gender_is_visible else 0.15)
        return self.random.choice(_verbs_with("essere" if moves else "avere"))

    def verb(self, subject: Subject, verb: Verb, tense: str, *, decidable: bool = True) -> None:
        pair = (subject.name, f"{verb.infinitive} {tense}")
        if tense in SIMPLE_TENSES:
            self.agree(subject.person, verb.forms(tense), "verb", pair, decidable=decidable)
            return
        auxiliary = AUXILIARIES[verb.auxiliary][_AUXILIARY_TENSE[tense]]
        kind = "counterfactual" if tense in COUNTERFACTUAL else tense
        self.agree(subject.person, auxiliary, f"auxiliary ({kind})", pair, decidable=decidable)
        if verb.auxiliary == "avere":
            self.write(verb.participle)
        else:
            visible = decidable and subject.gender_is_visible
            index = subject.gender_and_number
            self.agree(index, verb.participles(), "participle", pair, decidable=visible)

    def complement(self, subject: Subject, verb: Verb, negated: bool) -> None:
        if verb.phrases and (not verb.objects or self.maybe(0.5)):
            self.write(self.random.choice(verb.phrases))
            return
        noun = self.random.choice([n for n in _nouns(verb.objects) if n is not subject.noun])
        if "person" in noun.tags and self.maybe(0.35):
            names = [name for name in NAMES if not subject.overlaps(name)]
            self.write(*verb.preposition.split(), self.random.choice(names))
        else:
            self.object(noun, preposition=verb.preposition, negated=negated)

    def clause(self, subject: Subject, verb: Verb, tense: str, *, is_silent: bool = False) -> None:
        if not is_silent:
            self.introduce(subject)
        negated = self.maybe(0.12)
        if negated:
            self.write("non")
        self.verb(subject, verb, tense)
        self.complement(subject, verb, negated)

    def lead(self, leads: Sequence[str]) -> None:
        if self.maybe(0.75):
            self.write(self.random.choice(leads))

    # ---- sentences

    def compose(self) -> None:
        """Draw a construction and write it."""
        constructions = (
            *(self.counterfactual, self.simple_tense, self.passato_prossimo, self.copula),
            *(self.more_time, self.place, self.dialogue),
        )
        self.random.choices(constructions, weights=(27, 29, 12, 17, 4, 4, 8))[0]()

    def simple_tense(self) -> None:
        tense = self.random.choices(SIMPLE_TENSES, weights=(35, 22, 21, 22))[0]
        self.lead(lexicon.LEADS[tense])
        subject, verb = self.person(), self.random.choice(VERBS)
        self.clause(subject, verb, tense)
        if self.maybe(0.2):
            # After a name, "e" would seem to join two names: Luca aspetta Marco e Laura ...
            joins = ((",", "mentre"), (",", "ma"), ("e",))
            ends_in_name = self.text.split()[-1] in NAMES
            self.write(*self.random.choice(joins[:2] if ends_in_name else joins))
            self.clause(self.person(subject), self.random.choice(_verbs_beside(verb)), tense)
        self.write(".")

    def passato_prossimo(self) -> None:
        self.lead(lexicon.LEADS["passato prossimo"])
        subject = self.person()
        self.clause(subject, self.compound_verb(subject), "passato prossimo")
        self.write(".")

    def counterfactual(self) -> None:
        """se Laura avesse scelto un altro giorno, (lei or someone else) avrebbe visto il mare.

        Some break off after the protasis, and then have no full stop.
        """
        subject = self.person()
        verb = self.compound_verb(subject)
        protasis, apodosis = "congiuntivo trapassato", "condizionale passato"
        if self.maybe(0.15):
            self.write("se")
            self.clause(subject, verb, protasis)
            return
        other = self.person(subject) if self.maybe(0.35) else subject
        beside = self.random.choice(_verbs_beside(verb))
        if self.maybe(0.75):
            self.write("se")
            self.clause(subject, verb, protasis)
            self.write(",")
            self.clause(other, beside, apodosis, is_silent=other is subject)
        else:
            self.lead(("forse", "so che", "è vero che"))
            self.clause(subject, verb, apodosis)
            self.write("se")
            self.clause(other, beside, protasis, is_silent=other is subject)
        self.write(".")

    def more_time(self) -> None:
        """se Laura avesse più tempo, leggerebbe un libro."""
        subject, tense = self.person(), "congiuntivo imperfetto"
        self.write("se")
        self.introduce(subject)
        pair = (subject.name, f"avere {tense}")
        self.agree(subject.person, AUXILIARIES["avere"][tense], "verb", pair)
        self.write(self.random.choice(lexicon.MORE), ",")
        verb = self.random.choice(_verbs_about("study rest kitchen"))
        self.clause(subject, verb, "condizionale", is_silent=True)
        self.write(".")

    def copula(self) -> None:
        if self.maybe(0.65):
            subject = self.person()
            adjective = self.random.choice(_adjectives(frozenset({"person"})))
        else:
            subject = self.noun_subject(_things(), self.maybe(0.45))
            assert subject.noun is not None
            adjective = self.random.choice(_adjectives(subject.noun.tags))
        is_alive = subject.noun is None or not subject.noun.tags.isdisjoint(("person", "animal"))
        is_mood = is_alive and "mood" in adjective.tags
        leads = lexicon.MOOD_LEADS if is_mood else lexicon.NATURE_LEADS
        tense = self.random.choices(list(leads), weights=(50, 30, 20, 15)[: len(leads)])[0]
        self.lead(leads[tense])
        self.introduce(subject)
        self.be(subject, tense)
        if "absolute" not in adjective.tags and self.maybe(0.5):
            self.write(self.random.choice(("molto", "davvero", "proprio")))
        self.adjective(subject, adjective)
        self.write(".")

    def be(self, subject: Subject, tense: str) -> None:
        pair = (subject.name, f"essere {tense}")
        if self.maybe(0.1):
            self.write("non")
        self.agree(subject.person, AUXILIARIES["essere"][tense], "verb", pair)

    def place(self) -> None:
        """la chiave è sul tavolo; c'è un gatto nel giardino."""
        things, preposition, places = self.random.choice(lexicon.PLACES)
        tense = self.random.choice(("presente", "imperfetto"))
        subject = self.noun_subject(_nouns(things), self.maybe(0.45))
        assert subject.noun is not None
        self.lead(lexicon.NATURE_LEADS[tense])
        if self.maybe(0.5):
            self.write(lexicon.THERE_IS[tense][subject.is_plural])
            self.noun_phrase(subject.noun, subject.is_plural, _NEWLY_INTRODUCED)
        else:
            self.introduce(subject)
            self.be(subject, tense)
        where = self.random.choice(_nouns(places))
        contracted = lexicon.contraction(preposition, where.singular, where.gender, plural=False)
        self.write(contracted, where.singular, ".")

    def dialogue(self) -> None:
        """ciao, Laura, come va? tutto bene, grazie. a domani, Marco.

        Some are written as in a text message, without commas before the question: ciao come va?
        """
        name, friend = self.random.sample(NAMES, 2)
        if self.maybe(0.1) and name in lexicon.FEMALE_NAMES:
            greeting = self.random.choice(("buongiorno", "buonasera"))
            self.write(greeting, ",", "signora", name, ",", "come sta?")
            self.write(self.random.choice(lexicon.FORMAL_REPLIES), "arrivederci", ",", friend, ".")
            return
        has_commas = self.maybe(0.6)
        self.write(self.random.choice(("ciao", self.random.choice(lexicon.GREETINGS))))
        self.comma(has_commas)
        if self.maybe(0.5):
            self.write(name)
            self.comma(has_commas)
        if self.maybe(0.7):
            question = self.random.choice(list(lexicon.EXCHANGES))
            answers = lexicon.EXCHANGES[question]
            self.write(question)
        else:
            self.question(name)
            answers = lexicon.ANSWERS
        if self.maybe(0.7):
            self.write(self.random.choice(answers))
        if self.maybe(0.7):
            self.write(self.random.choice(lexicon.FAREWELLS), ",", friend, ".")

    def comma(self, is_written: bool) -> None:
        """Write a comma after a greeting or a name; text messages leave it out."""
        if is_written:
            self.write(",")

    def question(self, name: str) -> None:
        """hai visto il mare? No subject is written, so the verb is not asked about."""
        verb = self.random.choice(VERBS)
        asked = Subject(name="tu", person=1, gender=_gender([name]))
        self.verb(asked, verb, "passato prossimo", decidable=False)
        self.complement(asked, verb, negated=False)
        self.write("?")
