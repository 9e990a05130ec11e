"""English inflection by short rules, with the exceptions that the knowledge table needs."""

from collections.abc import Callable


def word_list(text: str) -> list[str]:
    return text.split()


ARTICLE_EXCEPTIONS = {"hour": "an", "hourglass": "an", "unicorn": "a", "ukulele": "a", "uniform": "a", "useful": "a"}

IRREGULAR_PAST = dict(
    pair.split(":")
    for pair in word_list(
        """
    be:was beat:beat bend:bent bite:bit bleed:bled blow:blew break:broke breed:bred build:built burst:burst
    buy:bought catch:caught cling:clung come:came cost:cost cut:cut dig:dug draw:drew drink:drank
    drive:drove eat:ate fall:fell feed:fed fight:fought find:found flee:fled fly:flew get:got give:gave
    go:went grind:ground grow:grew hang:hung have:had hear:heard hide:hid hit:hit hold:held keep:kept
    know:knew lead:led lean:leaned leap:leapt leave:left let:let lie:lay light:lit lose:lost make:made
    meet:met pay:paid put:put read:read ride:rode ring:rang rise:rose roll:rolled run:ran say:said see:saw
    sell:sold send:sent set:set sew:sewed shake:shook shear:sheared shed:shed shine:shone show:showed
    shut:shut sing:sang sink:sank sit:sat slay:slew sleep:slept slit:slit smell:smelled speak:spoke
    speed:sped spend:spent spin:spun spit:spat split:split spread:spread stand:stood steal:stole stick:stuck
    sting:stung stink:stank strike:struck sweep:swept swim:swam swing:swung take:took teach:taught tell:told
    think:thought throw:threw trumpet:trumpeted wear:wore weave:wove weep:wept win:won wind:wound
    write:wrote
    """
    )
)

HISSING = ("s", "x", "z", "ch", "sh")
"""Endings that take an `e` before the `s`."""

DOUBLING = frozenset(
    word_list(
        """
    bat beg chat chop clap drag drip drop drum fit flap flip get grab grin hit hop hug hum jog knit let
    mop nod pat pet pin plug pop put rip rob rot rub run scrub set shed shut sip sit skip slam slap slip
    snap spin spit split squat step stir stop strum strut swat swim tap tip trap trim wag win wrap zip cut
    blur dig plan pit
    """
    )
)


def article(noun: str) -> str:
    """`a` or `an`, by the first letter and a short list of exceptions.

    >>> article("hourglass"), article("apple"), article("unicorn")
    ('an', 'an', 'a')
    """
    first = noun.split()[0]
    return ARTICLE_EXCEPTIONS.get(first, "an" if first[0].lower() in "aeiou" else "a")


def with_article(noun: str) -> str:
    return f"{article(noun)} {noun}"


def plural(noun: str) -> str:
    """The regular plural; irregular ones are in the knowledge table."""
    return _with_s(noun, HISSING)


def third_person(phrase: str) -> str:
    """`carry loads` becomes `carries loads`."""
    return _inflect(phrase, {"be": "is", "have": "has"}, _third)


def past(phrase: str) -> str:
    """`carry loads` becomes `carried loads`."""
    return _inflect(phrase, IRREGULAR_PAST, _past)


def gerund(phrase: str) -> str:
    """`carry loads` becomes `carrying loads`."""
    return _inflect(phrase, {"be": "being", "lie": "lying", "die": "dying", "tie": "tying"}, _gerund)


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def enumeration(items: list[str], last: str = "and") -> str:
    """`a dog, a car and an apple`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" {last} " + items[-1]


def _inflect(phrase: str, exceptions: dict[str, str], rule: Callable[[str], str]) -> str:
    verb, _, rest = phrase.partition(" ")
    return f"{exceptions.get(verb) or rule(verb)} {rest}".rstrip()


def _third(verb: str) -> str:
    return _with_s(verb, (*HISSING, "o"))


def _with_s(word: str, before_es: tuple[str, ...]) -> str:
    if word.endswith(before_es):
        return word + "es"
    return word[:-1] + "ies" if _ends_in_consonant_y(word) else word + "s"


def _past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if _ends_in_consonant_y(verb) else _doubled(verb) + "ed"


def _gerund(verb: str) -> str:
    silent_e = verb.endswith("e") and not verb.endswith(("ee", "oe", "ye"))
    return verb[:-1] + "ing" if silent_e else _doubled(verb) + "ing"


def _ends_in_consonant_y(word: str) -> bool:
    return word.endswith("y") and word[-2] not in "aeiou"


def _doubled(verb: str) -> str:
    return verb + verb[-1] if verb in DOUBLING else verb
