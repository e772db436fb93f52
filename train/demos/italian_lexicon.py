"""The words of :mod:`train.demos.italian`, and how they inflect.

Standard library only. Nouns and adjectives are written out form by form, so that a reader can
proofread them. Verbs are conjugated by rule, with irregular stems beside each verb, because 24
forms per verb would swamp the table. The order of forms is io, tu, lui/lei, noi, voi, loro (0 to 5)
for what agrees in person, and m.sg, f.sg, m.pl, f.pl for what agrees in gender.

*Tags* say which words go together: a verb takes nouns that share a tag with it, and an adjective
describes nouns that share a tag with it, so that nobody eats a window and no ice cream is shy. Some
tags of adjectives mean something else: "mood" is for temporary states, "absolute" ones take no
molto, and "predicative" ones, which Italian prefers before the noun (un bel libro), only follow
essere here. Among the nouns, "known" ones take no indefinite article (lo zio), and "unique" ones
take the definite article alone (il mare).
"""

import re
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FEMALE_NAMES = _words("Laura Anna Giulia Chiara Sara Irene Francesca Marta Lucia Sofia")
MALE_NAMES = _words("Marco Luca Paolo Giovanni Andrea Matteo Davide Stefano Pietro Roberto")
NAMES = FEMALE_NAMES + MALE_NAMES

SIMPLE_TENSES = ("presente", "imperfetto", "futuro", "condizionale")


@dataclass(frozen=True)
class Noun:
    """`plural` is None if the noun has none here (il mare); il film and i film are the same."""

    singular: str
    plural: str | None
    gender: str  # "m" or "f"
    tags: frozenset[str]

    def form(self, plural: bool) -> str:
        assert not (plural and self.plural is None), f"{self.singular} has no plural here"
        return self.plural or self.singular if plural else self.singular

    @property
    def is_invariable(self) -> bool:
        return self.singular == self.plural


@dataclass(frozen=True)
class Adjective:
    """`forms` is m.sg, f.sg, m.pl, f.pl; grande has one form for both genders."""

    forms: tuple[str, str, str, str]
    tags: frozenset[str]

    @property
    def lemma(self) -> str:
        return self.forms[0]


# singular, plural ("-": none), gender, tags
_NOUN_TABLE = """
ragazzo ragazzi m person            | ragazza ragazze f person
bambino bambini m person            | bambina bambine f person
amico amici m person kin            | amica amiche f person kin
studente studenti m person          | studentessa studentesse f person
maestro maestri m person kin        | maestra maestre f person kin
nonno nonni m person kin known            | nonna nonne f person kin known
zio zii m person kin known                | zia zie f person kin known
cugino cugini m person kin          | cugina cugine f person kin
vicino vicini m person kin          | vicina vicine f person kin
cuoco cuochi m person               | cuoca cuoche f person
attore attori m person              | attrice attrici f person
scrittore scrittori m person        | scrittrice scrittrici f person
psicologo psicologi m person        | medico medici m person
gatto gatti m animal pet                | cane cani m animal pet
uccello uccelli m animal            | cavallo cavalli m animal
tartaruga tartarughe f animal pet       | capra capre f animal
libro libri m small text goods portable   | giornale giornali m small text goods portable
romanzo romanzi m text written goods | lettera lettere f small text written openable
poesia poesie f text written memory heard | messaggio messaggi m text written
storia storie f text written heard  | favola favole f text written heard
mela mele f sweet small food fresh goods        | arancia arance f sweet small food fresh goods
torta torte f sweet food cooked goods     | pizza pizze f food cooked goods
zuppa zuppe f food cooked           | pesce pesci m food cooked fresh goods
gelato gelati m sweet food goods          | panino panini m small food cooked goods
gnocco gnocchi m food cooked        | biscotto biscotti m sweet small food cooked goods
caffè caffè m drink cooked          | cappuccino cappuccini m drink cooked
birra birre f drink fresh           | succo succhi m sweet drink fresh
aranciata aranciate f sweet drink fresh   | sciroppo sciroppi m sweet drink
vestito vestiti m garment goods     | gonna gonne f garment goods
cappello cappelli m small garment goods portable | camicia camicie f small garment goods
scarpa scarpe f garment goods washable | stivale stivali m garment goods washable
scialle scialli m small garment goods portable | zaino zaini m bag goods portable openable
borsa borse f bag goods portable openable | valigia valigie f bag goods portable openable
scatola scatole f bag openable      | chiave chiavi f small object portable
ombrello ombrelli m object goods portable openable | penna penne f small object goods portable
orologio orologi m small object goods portable antique
anello anelli m small goods portable gift antique
specchio specchi m object goods washable antique | bicchiere bicchieri m object goods washable
tavolo tavoli m object goods washable antique support | sedia sedie f object goods washable support
scaffale scaffali m object goods washable support
armadio armadi m object washable openable antique
chitarra chitarre f object goods    | bicicletta biciclette f object goods washable
porta porte f object openable       | finestra finestre f object openable washable
gnomo gnomi m ornament goods        | stella stelle f scene
film film m seen show               | spettacolo spettacoli m seen show
quadro quadri m seen goods antique  | mostra mostre f seen show goal
canzone canzoni f heard memory show | opera opere f heard show
disco dischi m small heard goods          | lezione lezioni f learn heard memory
lingua lingue f study memory        | regola regole f learn memory
domanda domande f learn             | problema problemi m learn
esercizio esercizi m learn          | sbaglio sbagli m learn
idea idee f idea                    | regalo regali m small gift goods portable
fiore fiori m small gift goods            | giorno giorni m day
casa case f place building washable seen     | stanza stanze f place building washable
giardino giardini m place inside    | parco parchi m place inside goal
spiaggia spiagge f place goal       | isola isole f place seen
strada strade f place               | città città f place seen
stazione stazioni f place building goal inside | negozio negozi m place building inside
albergo alberghi m place building inside goal | mercato mercati m place goal
stadio stadi m place building inside goal    | zoo zoo m goal
mare - m scene unique               | tramonto - m scene unique
montagna montagne f scene           | albero alberi m scene
"""

_ADJECTIVE_TABLE = """
rosso rossa rossi rosse : garment bag object ornament absolute
nero nera neri nere : garment bag object animal absolute
bianco bianca bianchi bianche : garment bag object animal absolute
giallo gialla gialli gialle : garment bag ornament absolute
grigio grigia grigi grigie : garment bag object absolute
verde verde verdi verdi : garment bag object ornament absolute
nuovo nuova nuovi nuove : text garment bag object show idea learn
vecchio vecchia vecchi vecchie : garment bag object place antique predicative
piccolo piccola piccoli piccole : animal bag object place ornament gift predicative
grande grande grandi grandi : animal bag object place predicative
bello bella belli belle : text garment place show gift antique scene predicative
lungo lunga lunghi lunghe : text show learn
rotto rotta rotti rotte : object absolute
sporco sporca sporchi sporche : washable
pesante pesante pesanti pesanti : bag
leggero leggera leggeri leggere : bag garment
buono buona buoni buone : food drink predicative
caldo calda caldi calde : cooked
freddo fredda freddi fredde : drink cooked
fresco fresca freschi fresche : fresh
dolce dolce dolci dolci : sweet
interessante interessante interessanti interessanti : text seen show learn idea study
noioso noiosa noiosi noiose : text show learn
facile facile facili facili : learn study
difficile difficile difficili difficili : learn study
divertente divertente divertenti divertenti : text show person
famoso famosa famosi famose : person show
triste triste tristi tristi : person text show mood
strano strana strani strane : text idea animal ornament
moderno moderna moderni moderne : building show garment
affollato affollata affollati affollate : place
antico antica antichi antiche : antique study
tranquillo tranquilla tranquilli tranquille : place person animal unique mood
stanco stanca stanchi stanche : person animal mood
felice felice felici felici : person mood
allegro allegra allegri allegre : person mood
giovane giovane giovani giovani : person animal predicative
alto alta alti alte : person
gentile gentile gentili gentili : person mood
simpatico simpatica simpatici simpatiche : person animal
contento contenta contenti contente : person mood
bravo brava bravi brave : person predicative
curioso curiosa curiosi curiose : person animal mood
elegante elegante eleganti eleganti : person garment mood
pronto pronta pronti pronte : person cooked mood
timido timida timidi timide : person animal
"""


def _noun(entry: str) -> Noun:
    singular, plural, gender, *tags = entry.split()
    return Noun(singular, None if plural == "-" else plural, gender, frozenset(tags))


def _adjective(line: str) -> Adjective:
    forms, tags = line.split(":")
    masculine, feminine, masculine_plural, feminine_plural = forms.split()
    return Adjective(
        (masculine, feminine, masculine_plural, feminine_plural), frozenset(tags.split())
    )


NOUNS = tuple(_noun(entry) for entry in re.split(r"[|\n]", _NOUN_TABLE.strip()))
ADJECTIVES = tuple(_adjective(line) for line in _ADJECTIVE_TABLE.strip().split("\n"))
LEMMA = {form: noun.singular for noun in NOUNS for form in (noun.singular, noun.plural) if form}

# ---- verbs ---------------------------------------------------------------------------------------

# AUXILIARIES[auxiliary][tense][person]; the copula uses the four simple tenses of essere
AUXILIARIES = {
    "avere": {
        "presente": _words("ho hai ha abbiamo avete hanno"),
        "condizionale": _words("avrei avresti avrebbe avremmo avreste avrebbero"),
        "congiuntivo imperfetto": _words("avessi avessi avesse avessimo aveste avessero"),
    },
    "essere": {
        "presente": _words("sono sei è siamo siete sono"),
        "imperfetto": _words("ero eri era eravamo eravate erano"),
        "futuro": _words("sarò sarai sarà saremo sarete saranno"),
        "condizionale": _words("sarei saresti sarebbe saremmo sareste sarebbero"),
        "congiuntivo imperfetto": _words("fossi fossi fosse fossimo foste fossero"),
    },
}

_PRESENT_ENDINGS = {
    "are": _words("o i a iamo ate ano"),
    "ere": _words("o i e iamo ete ono"),
    "ire": _words("o i e iamo ite ono"),
    "isc": _words("isco isci isce iamo ite iscono"),  # capire: capisco, but capiamo
}
_IMPERFECT_ENDINGS = _words("vo vi va vamo vate vano")
_FUTURE_ENDINGS = _words("ò ai à emo ete anno")
_CONDITIONAL_ENDINGS = _words("ei esti ebbe emmo este ebbero")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb, what may follow it, and its irregular parts.

    `objects` are tags of nouns, introduced by `preposition` if there is one; `phrases` are fixed
    complements. Verbs in the two clauses of a sentence share one of the `topics`, so that the
    clauses have something to do with each other.
    """

    infinitive: str
    participle: str  # m.sg
    objects: str
    topics: str
    auxiliary: str = "avere"
    preposition: str = ""
    phrases: tuple[str, ...] = ()
    present: str = ""  # six forms, where irregular
    imperfect_stem: str = ""  # beve- for bere
    future_stem: str = ""  # andr- for andare; the conditional has the same
    takes_isc: bool = False

    def forms(self, tense: str) -> tuple[str, ...]:
        """The six persons of one of SIMPLE_TENSES."""
        stem, ending = self.infinitive[:-3], self.infinitive[-3:]
        if tense == "presente":
            endings = _PRESENT_ENDINGS["isc" if self.takes_isc else ending]
            return _words(self.present) or tuple(_join(stem, e, ending) for e in endings)
        if tense == "imperfetto":
            return tuple((self.imperfect_stem or stem + ending[0]) + e for e in _IMPERFECT_ENDINGS)
        thematic = "ir" if ending == "ire" else "er"
        future = self.future_stem or _join(stem, thematic, ending)
        endings = _FUTURE_ENDINGS if tense == "futuro" else _CONDITIONAL_ENDINGS
        return tuple(future + e for e in endings)

    def participles(self) -> tuple[str, ...]:
        """m.sg, f.sg, m.pl, f.pl: andato, andata, andati, andate."""
        return tuple(self.participle[:-1] + vowel for vowel in "oaie")


def _join(stem: str, ending: str, conjugation: str) -> str:
    """Spell the stem so that its sound stays the same: cerchi, not cerci; mangi, mangerò, studi."""
    if conjugation == "are" and ending[0] in "ei":
        if stem[-1] in "cg":
            return stem + "h" + ending
        if stem.endswith(("ci", "gi")) or (stem[-1] == "i" and ending[0] == "i"):
            return stem[:-1] + ending
    return stem + ending


VERBS = (
    Verb(infinitive="leggere", participle="letto", objects="text", topics="study rest"),
    Verb(infinitive="scrivere", participle="scritto", objects="written", topics="study rest"),
    Verb(infinitive="studiare", participle="studiato", objects="study memory", topics="study"),
    Verb(infinitive="imparare", participle="imparato", objects="memory study", topics="study"),
    Verb(
        infinitive="capire",
        participle="capito",
        objects="learn idea",
        topics="study",
        takes_isc=True,
    ),
    Verb(infinitive="mangiare", participle="mangiato", objects="food", topics="kitchen"),
    Verb(
        infinitive="bere",
        participle="bevuto",
        objects="drink",
        topics="kitchen rest",
        present="bevo bevi beve beviamo bevete bevono",
        imperfect_stem="beve",
        future_stem="berr",
    ),
    Verb(infinitive="preparare", participle="preparato", objects="cooked", topics="kitchen"),
    Verb(infinitive="comprare", participle="comprato", objects="goods", topics="town"),
    Verb(infinitive="cercare", participle="cercato", objects="portable pet", topics="home"),
    Verb(infinitive="trovare", participle="trovato", objects="portable pet", topics="home town"),
    Verb(infinitive="perdere", participle="perso", objects="portable", topics="home travel"),
    Verb(
        infinitive="dimenticare", participle="dimenticato", objects="portable", topics="home travel"
    ),
    Verb(infinitive="aprire", participle="aperto", objects="openable", topics="home"),
    Verb(infinitive="chiudere", participle="chiuso", objects="openable", topics="home"),
    Verb(
        infinitive="pulire", participle="pulito", objects="washable", topics="home", takes_isc=True
    ),
    Verb(
        infinitive="vedere",
        participle="visto",
        objects="seen scene animal person",
        topics="rest travel town",
        future_stem="vedr",
    ),
    Verb(infinitive="guardare", participle="guardato", objects="seen scene", topics="rest"),
    Verb(infinitive="ascoltare", participle="ascoltato", objects="heard", topics="rest study"),
    Verb(
        infinitive="scegliere",
        participle="scelto",
        objects="garment gift show day goods",
        topics="town travel",
        present="scelgo scegli sceglie scegliamo scegliete scelgono",
    ),
    Verb(infinitive="incontrare", participle="incontrato", objects="person", topics="town travel"),
    Verb(infinitive="aspettare", participle="aspettato", objects="person", topics="town travel"),
    Verb(infinitive="aiutare", participle="aiutato", objects="person", topics="home study kitchen"),
    Verb(infinitive="invitare", participle="invitato", objects="person", topics="kitchen rest"),
    Verb(
        infinitive="parlare",
        participle="parlato",
        objects="text show person place learn idea",
        preposition="di",
        topics="rest study town",
    ),
    Verb(
        infinitive="andare",
        participle="andato",
        auxiliary="essere",
        objects="goal",
        preposition="a",
        phrases=("a casa", "in centro", "al mare", "in montagna", "a scuola"),
        topics="travel town",
        present="vado vai va andiamo andate vanno",
        future_stem="andr",
    ),
    Verb(
        infinitive="tornare",
        participle="tornato",
        auxiliary="essere",
        objects="goal",
        preposition="a",
        phrases=("a casa", "in centro", "al mare", "presto", "tardi"),
        topics="travel home",
    ),
    Verb(
        infinitive="venire",
        participle="venuto",
        auxiliary="essere",
        objects="goal",
        preposition="a",
        phrases=("in centro", "al mare", "in montagna", "in treno"),
        topics="travel town",
        present="vengo vieni viene veniamo venite vengono",
        future_stem="verr",
    ),
    Verb(
        infinitive="arrivare",
        participle="arrivato",
        auxiliary="essere",
        objects="goal",
        preposition="a",
        phrases=("in tempo", "in ritardo", "presto", "tardi", "a casa"),
        topics="travel town",
    ),
    Verb(
        infinitive="partire",
        participle="partito",
        auxiliary="essere",
        objects="",
        phrases=("presto", "tardi", "in treno", "per il mare", "per la montagna", "in bicicletta"),
        topics="travel",
    ),
    Verb(
        infinitive="uscire",
        participle="uscito",
        auxiliary="essere",
        objects="inside",
        preposition="da",
        phrases=("di casa", "presto", "tardi", "in bicicletta"),
        topics="travel town home",
        present="esco esci esce usciamo uscite escono",
    ),
    Verb(
        infinitive="restare",
        participle="restato",
        auxiliary="essere",
        objects="inside",
        preposition="in",
        phrases=("a casa", "in città", "al mare", "in centro"),
        topics="home rest town",
    ),
)

# ---- articles ------------------------------------------------------------------------------------

DEFINITE = ("il", "lo", "la", "i", "gli", "le")
INDEFINITE = ("un", "uno", "una", "dei", "degli", "delle")  # the plural is the partitive
_STEMS = {"a": "a", "di": "de", "da": "da", "in": "ne", "su": "su"}
_STRONG = ("z", "gn", "ps")  # and s + consonant: lo zaino, lo gnomo, lo psicologo, lo studente


def is_strong(word: str) -> bool:
    """Whether its first consonants make a masculine word take lo, uno, gli."""
    return word.startswith(_STRONG) or (word[0] == "s" and word[1] not in "aeiou")


def definite(word: str, gender: str, plural: bool) -> str:
    vowel = word[0] in "aeiou"
    if gender == "f":
        return "le" if plural else "l'" if vowel else "la"
    if plural:
        return "gli" if vowel or is_strong(word) else "i"
    return "l'" if vowel else "lo" if is_strong(word) else "il"


def indefinite(word: str, gender: str, plural: bool) -> str:
    """un amico but un'amica: only the feminine is elided. The plural is degli amici."""
    if plural:
        return contraction("di", word, gender, plural)
    if gender == "f":
        return "un'" if word[0] in "aeiou" else "una"
    return "uno" if is_strong(word) else "un"


def contraction(preposition: str, word: str, gender: str, plural: bool) -> str:
    """di + il = del, in + lo = nello, a + l' = all': the l doubles, but for il, i and gli."""
    article = definite(word, gender, plural)
    stem = _STEMS[preposition]
    if article == "il":
        return stem + "l"
    return stem + (article if article in ("i", "gli") else "l" + article)


def demonstrative(word: str, gender: str, plural: bool) -> str:
    """quel, quello, quella, quell', quei, quegli, quelle, with the endings of del, dello, ..."""
    return "que" + contraction("di", word, gender, plural)[2:]


# ---- set phrases ---------------------------------------------------------------------------------

LEADS = {
    "presente": ("oggi", "spesso", "di solito", "ogni sera", "ogni mattina", "è vero che"),
    "imperfetto": ("spesso", "di solito", "ogni estate", "ogni domenica", "in quegli anni"),
    "futuro": ("domani", "presto", "fra un mese", "in estate", "domani sera"),
    "condizionale": ("forse", "in quel caso,", "altrimenti", "so che"),
    "passato prossimo": ("ieri", "ieri sera", "stamattina", "poco fa", "lunedì", "so che"),
}
MOOD_LEADS = {
    "presente": ("oggi", "adesso", "so che", "è vero che", "secondo me"),
    "imperfetto": ("ieri", "allora", "quel giorno", "so che"),
    "futuro": ("domani", "presto", "fra un mese"),
    "condizionale": ("forse", "in vacanza,", "in quel caso,"),
}
# For lasting properties, which take neither "oggi" nor "domani".
NATURE_LEADS = {
    "presente": ("so che", "è vero che", "secondo me", "in realtà,"),
    "imperfetto": ("so che", "allora", "è vero che", "secondo me"),
}
MORE = ("più tempo", "più energia", "meno lavoro", "più pazienza", "meno fretta", "più coraggio")

GREETINGS = ("ciao", "ehi", "buongiorno", "buonasera")
EXCHANGES = {
    "come va?": ("tutto bene, grazie.", "va tutto bene.", "non c'è male, grazie.", "così così."),
    "come stai?": ("bene, grazie, e tu?", "molto bene, grazie.", "sto bene, e tu?"),
    "tutto bene?": ("sì, grazie.", "sì, tutto bene.", "sì, grazie, e tu?"),
    "va tutto bene?": ("sì, grazie.", "sì, va tutto bene.", "così così."),
    "dove vai?": ("vado a casa.", "vado in centro.", "vado a scuola.", "vado al parco."),
}
ANSWERS = ("sì, certo.", "sì, ieri.", "no, non ancora.", "no, mi dispiace.", "sì, poco fa.")
FORMAL_REPLIES = ("bene, grazie, e lei?", "molto bene, grazie.", "non c'è male, grazie.")
FAREWELLS = ("a domani", "a presto", "ci vediamo domani", "grazie mille", "ciao")

THERE_IS = {"presente": ("c'è", "ci sono"), "imperfetto": ("c'era", "c'erano")}
# What may be where: tags of the thing, a preposition, tags of the place.
PLACES = (("small", "su", "support"), ("small", "in", "bag"), ("person animal", "in", "inside"))
