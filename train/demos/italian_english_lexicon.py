"""The English for the words of :mod:`train.demos.italian_lexicon`, and how it inflects.

Standard library only. Distinctions that English does not make are lost: amico and amica are both a
friend. Each noun is given with its plural and each verb with its past and its participle, so that
a reader can proofread them; the s of the third person is added by rule.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class EnglishVerb:
    """`adverb` always follows ("go out"), `preposition` only before a noun or a name."""

    base: str
    past: str
    participle: str
    adverb: str = ""
    preposition: str = ""

    @property
    def third_person(self) -> str:
        """he goes, she watches, it studies."""
        if self.base.endswith(("o", "ch", "sh", "s", "x")):
            return self.base + "es"
        if self.base.endswith("y") and self.base[-2] not in "aeou":
            return self.base[:-1] + "ies"
        return self.base + "s"


# Italian singular: English singular, plural
_NOUN_TABLE = """
ragazzo: boy, boys                | ragazza: girl, girls
bambino: child, children          | bambina: child, children
amico: friend, friends            | amica: friend, friends
studente: student, students       | studentessa: student, students
maestro: teacher, teachers        | maestra: teacher, teachers
nonno: grandfather, grandfathers  | nonna: grandmother, grandmothers
zio: uncle, uncles                | zia: aunt, aunts
cugino: cousin, cousins           | cugina: cousin, cousins
vicino: neighbour, neighbours     | vicina: neighbour, neighbours
cuoco: cook, cooks                | cuoca: cook, cooks
attore: actor, actors             | attrice: actress, actresses
scrittore: writer, writers        | scrittrice: writer, writers
psicologo: psychologist, psychologists | medico: doctor, doctors
gatto: cat, cats                  | cane: dog, dogs
uccello: bird, birds              | cavallo: horse, horses
tartaruga: tortoise, tortoises    | capra: goat, goats
libro: book, books                | giornale: newspaper, newspapers
romanzo: novel, novels            | lettera: letter, letters
poesia: poem, poems               | messaggio: message, messages
storia: story, stories            | favola: fable, fables
mela: apple, apples               | arancia: orange, oranges
torta: cake, cakes                | pizza: pizza, pizzas
zuppa: soup, soups                | pesce: fish, fish
gelato: ice cream, ice creams     | panino: sandwich, sandwiches
gnocco: dumpling, dumplings       | biscotto: biscuit, biscuits
caffè: coffee, coffees            | cappuccino: cappuccino, cappuccinos
birra: beer, beers                | succo: juice, juices
aranciata: orangeade, orangeades  | sciroppo: syrup, syrups
vestito: dress, dresses           | gonna: skirt, skirts
cappello: hat, hats               | camicia: shirt, shirts
scarpa: shoe, shoes               | stivale: boot, boots
scialle: shawl, shawls            | zaino: backpack, backpacks
borsa: bag, bags                  | valigia: suitcase, suitcases
scatola: box, boxes               | chiave: key, keys
ombrello: umbrella, umbrellas     | penna: pen, pens
orologio: watch, watches          | anello: ring, rings
specchio: mirror, mirrors         | bicchiere: glass, glasses
tavolo: table, tables             | sedia: chair, chairs
scaffale: shelf, shelves          | armadio: wardrobe, wardrobes
chitarra: guitar, guitars         | bicicletta: bicycle, bicycles
porta: door, doors                | finestra: window, windows
gnomo: gnome, gnomes              | stella: star, stars
film: film, films                 | spettacolo: show, shows
quadro: painting, paintings       | mostra: exhibition, exhibitions
canzone: song, songs              | opera: opera, operas
disco: record, records            | lezione: lesson, lessons
lingua: language, languages       | regola: rule, rules
domanda: question, questions      | problema: problem, problems
esercizio: exercise, exercises    | sbaglio: mistake, mistakes
idea: idea, ideas                 | regalo: present, presents
fiore: flower, flowers            | giorno: day, days
casa: house, houses               | stanza: room, rooms
giardino: garden, gardens         | parco: park, parks
spiaggia: beach, beaches          | isola: island, islands
strada: road, roads               | città: city, cities
stazione: station, stations       | negozio: shop, shops
albergo: hotel, hotels            | mercato: market, markets
stadio: stadium, stadiums         | zoo: zoo, zoos
mare: sea, -                      | tramonto: sunset, -
montagna: mountain, mountains     | albero: tree, trees
"""

# Italian m.sg: English
_ADJECTIVE_TABLE = """
rosso red | nero black | bianco white | giallo yellow | grigio grey | verde green | nuovo new
vecchio old | piccolo small | grande big | bello beautiful | lungo long | rotto broken
sporco dirty | pesante heavy | leggero light | buono good | caldo hot | freddo cold
fresco fresh | dolce sweet | interessante interesting | noioso boring | facile easy
difficile difficult | divertente funny | famoso famous | triste sad | strano strange
moderno modern | affollato crowded | antico ancient | tranquillo calm | stanco tired
felice happy | allegro cheerful | giovane young | alto tall | gentile kind | simpatico nice
contento contented | bravo clever | curioso curious | elegante elegant | pronto ready
timido shy
"""

# Some adjectives only follow the verb in English: the cook is ready, but the prepared cook.
BEFORE_A_NOUN = {"ready": "prepared"}

VERBS = {
    "leggere": EnglishVerb("read", "read", "read"),
    "scrivere": EnglishVerb("write", "wrote", "written"),
    "studiare": EnglishVerb("study", "studied", "studied"),
    "imparare": EnglishVerb("learn", "learnt", "learnt"),
    "capire": EnglishVerb("understand", "understood", "understood"),
    "mangiare": EnglishVerb("eat", "ate", "eaten"),
    "bere": EnglishVerb("drink", "drank", "drunk"),
    "preparare": EnglishVerb("prepare", "prepared", "prepared"),
    "comprare": EnglishVerb("buy", "bought", "bought"),
    "cercare": EnglishVerb("look", "looked", "looked", preposition="for"),
    "trovare": EnglishVerb("find", "found", "found"),
    "perdere": EnglishVerb("lose", "lost", "lost"),
    "dimenticare": EnglishVerb("forget", "forgot", "forgotten"),
    "aprire": EnglishVerb("open", "opened", "opened"),
    "chiudere": EnglishVerb("close", "closed", "closed"),
    "pulire": EnglishVerb("clean", "cleaned", "cleaned"),
    "vedere": EnglishVerb("see", "saw", "seen"),
    "guardare": EnglishVerb("look", "looked", "looked", preposition="at"),
    "ascoltare": EnglishVerb("listen", "listened", "listened", preposition="to"),
    "scegliere": EnglishVerb("choose", "chose", "chosen"),
    "incontrare": EnglishVerb("meet", "met", "met"),
    "aspettare": EnglishVerb("wait", "waited", "waited", preposition="for"),
    "aiutare": EnglishVerb("help", "helped", "helped"),
    "invitare": EnglishVerb("invite", "invited", "invited"),
    "parlare": EnglishVerb("talk", "talked", "talked", preposition="about"),
    "andare": EnglishVerb("go", "went", "gone", preposition="to"),
    "tornare": EnglishVerb("come", "came", "come", adverb="back", preposition="to"),
    "venire": EnglishVerb("come", "came", "come", preposition="to"),
    "arrivare": EnglishVerb("arrive", "arrived", "arrived", preposition="at"),
    "partire": EnglishVerb("leave", "left", "left"),
    "uscire": EnglishVerb("go", "went", "gone", adverb="out", preposition="of"),
    "restare": EnglishVerb("stay", "stayed", "stayed", preposition="in"),
}
# One watches what goes on, and looks at what stands still.
_WATCH = EnglishVerb("watch", "watched", "watched")
_WATCHED = ("film", "spettacolo", "tramonto")


def _nouns() -> dict[str, tuple[str, str]]:
    entries = [entry.split(":") for entry in _NOUN_TABLE.replace("|", "\n").strip().split("\n")]
    forms = {italian.strip(): english.split(",") for italian, english in entries}
    return {italian: (one.strip(), many.strip()) for italian, (one, many) in forms.items()}


NOUNS = _nouns()
ADJECTIVES = dict(
    entry.split() for entry in _ADJECTIVE_TABLE.replace("|", "\n").split("\n") if entry.strip()
)


def verb_before(infinitive: str, noun: str) -> EnglishVerb:
    """The verb that goes with a noun: guardare is to watch a film, but to look at a painting."""
    return _WATCH if infinitive == "guardare" and noun in _WATCHED else VERBS[infinitive]


def article_before(word: str) -> str:
    """a or an, by the first letter: none of the words here is an exception like hour."""
    return "an" if word[0] in "aeiou" else "a"


# ---- set phrases ---------------------------------------------------------------------------------

PRONOUNS = {"io": "I", "tu": "you", "lui": "he", "lei": "she", "noi": "we", "voi": "you"} | {
    "loro": "they"
}

# Fixed complements; after restare they say where, not where to.
PHRASES = {
    "a casa": "home",
    "in centro": "to the centre",
    "al mare": "to the seaside",
    "in montagna": "to the mountains",
    "a scuola": "to school",
    "presto": "early",
    "tardi": "late",
    "in treno": "by train",
    "in tempo": "in time",
    "in ritardo": "late",
    "per il mare": "for the seaside",
    "per la montagna": "for the mountains",
    "in bicicletta": "by bicycle",
    "di casa": "of the house",
}
STAYING = {
    "a casa": "at home",
    "in città": "in the city",
    "al mare": "at the seaside",
    "in centro": "in the centre",
}

# What begins an Italian sentence: in English it stays in "front", or moves before the "verb" or to
# the "end" of its clause.
LEADS = {
    "oggi": ("today", "front"),
    "spesso": ("often", "verb"),
    "di solito": ("usually", "verb"),
    "ogni sera": ("every evening", "end"),
    "ogni mattina": ("every morning", "end"),
    "ogni estate": ("every summer", "end"),
    "ogni domenica": ("every Sunday", "end"),
    "in quegli anni": ("in those years", "front"),
    "domani": ("tomorrow", "end"),
    "domani sera": ("tomorrow evening", "end"),
    "presto": ("soon", "front"),
    "fra un mese": ("in a month", "end"),
    "in estate": ("in summer", "end"),
    "ieri": ("yesterday", "end"),
    "ieri sera": ("yesterday evening", "end"),
    "stamattina": ("this morning", "end"),
    "poco fa": ("a short while ago", "end"),
    "lunedì": ("on Monday", "end"),
    "quel giorno": ("that day", "front"),
    "adesso": ("now", "front"),
    "allora": ("then", "front"),
    "forse": ("perhaps", "front"),
    "altrimenti": ("otherwise", "front"),
    "so che": ("I know that", "front"),
    "è vero che": ("it is true that", "front"),
    "secondo me": ("in my opinion,", "front"),
    "in quel caso,": ("in that case,", "front"),
    "in vacanza,": ("on holiday,", "front"),
    "in realtà,": ("in fact,", "front"),
}

# Fixed words and phrases, and their translations.
FIXED = {
    ".": ".",
    ",": ",",
    "?": "?",
    "e": "and",
    "ma": "but",
    "mentre": "while",
    "se": "if",
    "avessi": "had",
    "avesse": "had",
    "avessimo": "had",
    "aveste": "had",
    "avessero": "had",
    "più tempo": "more time",
    "più energia": "more energy",
    "meno lavoro": "less work",
    "più pazienza": "more patience",
    "meno fretta": "less haste",
    "più coraggio": "more courage",
    "molto": "very",
    "davvero": "really",
    "proprio": "really",
    "c'è": "there is",
    "ci sono": "there are",
    "c'era": "there was",
    "c'erano": "there were",
    "ciao": "hello",
    "ehi": "hey",
    "buongiorno": "good morning",
    "buonasera": "good evening",
    "signora": "Mrs",
    "come sta?": "how are you?",
    "come va?": "how is it going?",
    "come stai?": "how are you?",
    "tutto bene?": "is everything all right?",
    "va tutto bene?": "is everything going well?",
    "dove vai?": "where are you going?",
    "tutto bene, grazie.": "all is well, thank you.",
    "va tutto bene.": "everything is going well.",
    "non c'è male, grazie.": "not bad, thank you.",
    "così così.": "so so.",
    "bene, grazie, e tu?": "well, thank you, and you?",
    "molto bene, grazie.": "very well, thank you.",
    "sto bene, e tu?": "I am well, and you?",
    "sì, grazie.": "yes, thank you.",
    "sì, tutto bene.": "yes, all is well.",
    "sì, va tutto bene.": "yes, everything is going well.",
    "sì, grazie, e tu?": "yes, thank you, and you?",
    "vado a casa.": "I am going home.",
    "vado in centro.": "I am going to the centre.",
    "vado a scuola.": "I am going to school.",
    "vado al parco.": "I am going to the park.",
    "sì, certo.": "yes, of course.",
    "sì, ieri.": "yes, yesterday.",
    "no, non ancora.": "no, not yet.",
    "no, mi dispiace.": "no, I am sorry.",
    "sì, poco fa.": "yes, a short while ago.",
    "bene, grazie, e lei?": "well, thank you, and you?",
    "arrivederci": "goodbye",
    "a domani": "see you tomorrow",
    "a presto": "see you soon",
    "ci vediamo domani": "see you tomorrow",
    "grazie mille": "many thanks",
}
