"""The corpus: knowledge table, grammar, real sources, held-out split, cloze items and n-gram baseline."""

import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from recipes.tiny import text
from recipes.tiny.ngram import NGram
from recipes.tiny.text import captions, cloze, grammar, knowledge, real, words

SEED = 0
DOCUMENTS = 6000


@pytest.fixture(scope="module")
def nouns() -> list[knowledge.Noun]:
    return knowledge.load()


@pytest.fixture(scope="module")
def told(nouns):
    return knowledge.withhold(nouns, share=text.WITHHELD_SHARE, seed=SEED)


@pytest.fixture(scope="module")
def generated(told) -> list[str]:
    return list(itertools.islice(grammar.documents(told[0], seed=SEED), DOCUMENTS))


def test_table_is_complete(nouns):
    assert len({noun.name for noun in nouns}) == len(nouns) == 402
    for noun in nouns:
        for field in ("kinds", "places", "does", "uses", "qualities", "related"):
            assert getattr(noun, field), f"{noun.name} has no {field}"
            assert all(value == value.strip() for value in getattr(noun, field))


def test_a_bad_row_is_named(tmp_path):
    header = "noun,number,kinds,colours,size,materials,parts,places,does,uses,qualities,related"
    path = tmp_path / "knowledge.csv"
    path.write_text(f"{header}\ndog,,pet,brown,gigantic,,tail,at home,bark,feed it,loyal,puppy\n")
    with pytest.raises(ValueError, match=r"line 2 \('dog'\): size 'gigantic'"):
        knowledge.load(path)


@pytest.mark.parametrize(
    ("inflect", "forms"),
    [
        (words.with_article, {"hourglass": "an hourglass", "unicorn": "a unicorn", "apple": "an apple"}),
        (words.plural, {"puppy": "puppies", "monkey": "monkeys", "watch": "watches"}),
        (words.third_person, {"carry loads": "carries loads", "be quick": "is quick"}),
        (words.past, {"run on rails": "ran on rails", "hop": "hopped", "shave": "shaved"}),
        (words.gerund, {"lie in the sun": "lying in the sun", "swim": "swimming"}),
    ],
)
def test_inflection(inflect, forms):
    assert {word: inflect(word) for word in forms} == forms


def test_enumeration():
    assert words.enumeration(["a", "b", "c"]) == "a, b and c"


def test_grammar_is_seeded(told, generated):
    assert list(itertools.islice(grammar.documents(told[0], seed=SEED), 100)) == generated[:100]
    assert list(itertools.islice(grammar.documents(told[0], seed=SEED + 1), 100)) != generated[:100]


def test_documents_are_varied_and_clean(generated):
    long = [document for document in generated if len(document) >= text.HELD_OUT_MIN_CHARACTERS]
    assert len(set(long)) > 0.99 * len(long)
    assert len({document.split()[0] for document in generated}) > 100
    for document in generated:
        assert text.END not in document
        assert "None" not in document
        assert "  " not in document
        assert document == document.strip()


def test_noun_pairs_of_captions_are_independent(nouns):
    """Pearson's chi-square over coarse groups of nouns: within five standard deviations of its mean.

    A control with dependent pairs lies far outside.
    """
    rng = random.Random(5)
    draw = grammar.Grammar(nouns, rng=rng).noun
    group = {noun.name: i % 12 for i, noun in enumerate(nouns)}
    table = np.zeros((12, 12))
    dependent = np.zeros((12, 12))
    while table.sum() < 6000:
        caption = captions.caption(rng, draw)
        found = [word.strip(".,") for word in caption.removeprefix("A picture of").split()]
        pair = [group[word] for word in found if word in group]
        if caption.startswith("A picture of") and len(pair) == 2:
            table[pair[0], pair[1]] += 1
            dependent[pair[0], pair[0] if rng.random() < 0.1 else pair[1]] += 1
    degrees = 11 * 11
    assert abs(_chi_square(table) - degrees) < 5 * (2 * degrees) ** 0.5
    assert abs(_chi_square(dependent) - degrees) > 5 * (2 * degrees) ** 0.5


def _chi_square(table: np.ndarray) -> float:
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())


def test_captions_have_the_projections_form(nouns):
    rng = random.Random(1)
    draw = grammar.Grammar(nouns, rng=rng).noun
    made = [captions.caption(rng, draw) for _ in range(3000)]
    plain = [caption for caption in made if caption.startswith("A picture of")]
    assert 0.5 < len(plain) / len(made) < 0.75
    assert all(caption.endswith(".") for caption in made)
    names = {noun.name for noun in nouns}
    single = Counter(words[4].strip(".") for words in map(str.split, plain) if len(words) == 5)
    assert set(single) <= names
    assert any(" next to a" in caption for caption in plain)
    assert any(" above a" in caption for caption in plain)
    assert any(" below a" in caption for caption in plain)
    assert any(", " in caption and " and " in caption for caption in plain)


def test_a_text_before_a_caption_is_about_what_it_names(nouns):
    """The clues of the named things stand in the text; the names themselves in about a third of the texts."""
    rng = random.Random(2)
    made = grammar.Grammar(nouns, rng=rng)
    drawn: list[knowledge.Noun] = []

    def noun() -> knowledge.Noun:
        drawn.append(made.noun())
        return drawn[-1]

    def clues(thing: knowledge.Noun) -> list[str]:
        return [f"clue one of {id(thing)}", f"clue two of {id(thing)}", f"clue three of {id(thing)}"]

    named = clued = texts = 0
    while texts < 400:
        drawn.clear()
        document = captions.illustrated(rng, noun, clues)
        things = drawn[:-1]
        opening = next(o for o in ("A picture of", *captions.OPENINGS) if f"{o} " in document)
        before, _, after = document.rpartition(f"{opening} ")
        assert all(thing.name in after for thing in things), document
        if "clue" in before:
            texts += 1
            clued += all(str(id(thing)) in before for thing in things)
            named += any(thing.the in before or thing.a in before for thing in things)
    assert clued == texts
    assert 0.25 < named / texts < 0.42


def test_withheld_facts_are_in_no_sentence_of_the_grammar(told):
    kept, withheld = told
    assert len(withheld) > 30
    by_name = {noun.name: noun for noun in kept}
    for fact in withheld:
        assert fact.value not in getattr(by_name[fact.noun], fact.field)
        assert len(getattr(by_name[fact.noun], fact.field)) >= 2


def test_no_held_out_document_trains(told):
    stream = itertools.islice(grammar.documents(told[0], seed=SEED), DOCUMENTS)
    repeated = ["The same long document twice: " + "word " * 30] * 50
    train, held_out, mix = text.divide({"repeated": repeated, "generated": stream}, share=0.1, seed=SEED)
    assert not set(train) & set(held_out["generated"])
    assert not set(train) & set(held_out["real"])
    assert len(held_out["generated"]) > 100
    assert min(map(len, held_out["generated"])) >= text.HELD_OUT_MIN_CHARACTERS
    assert sum(part["train_bytes"] for part in mix.values()) == sum(len(d.encode()) for d in train)


def test_documents_survive_the_file(tmp_path, generated):
    path = tmp_path / "train.txt"
    text.write_documents(path, generated)
    assert text.read_documents(path) == generated


def test_wordnet_line_becomes_prose():
    line = (
        "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 002 @ 02083346 n 0000 ~ 01322604 n 0000 | a member "
        'of the genus Canis; occurs in many breeds; "the dog barked all night"  '
    )
    made = real._meaning(line, "noun", {"02083346": "canine"})
    assert made == (
        "dog, domestic dog, Canis familiaris (noun): a member of the genus Canis; occurs in many breeds. "
        "A kind of canine. The dog barked all night."
    )


def test_bible_footnotes_leave_and_words_stay_apart():
    verse = (
        '<w lemma="x">God</w><note placement="foot"><reference>1:1 </reference>Note.</note><w>created</w> <w>it</w>.'
    )
    assert real._verse(verse) == "God created it."


def test_a_missing_package_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="`fetch`"):
        list(real.wordnet(tmp_path))


def test_cloze_choices_are_false_but_one(nouns, told):
    items = cloze.items(nouns, told[1], seed=SEED)
    table = {noun.name: noun for noun in nouns}
    assert len(items) > 400
    assert {item["field"] for item in items} == set(knowledge.CLOZE_FIELDS)
    for item in items:
        true = getattr(table[item["noun"]], item["field"])
        bare = [words.removeprefix(" ") for words in item["choices"]]
        if item["field"] == "kinds":
            bare = [choice.split(" ", 1)[1] for choice in bare]
        assert len(set(bare)) == cloze.CHOICES
        assert [choice in true for choice in bare].index(True) == item["answer"]
        assert sum(choice in true for choice in bare) == 1
    positions = Counter(item["answer"] for item in items)
    assert min(positions.values()) > 0.15 * len(items)


def test_cloze_frames_are_in_no_generated_document(generated):
    fragments = ["must surely be called", "usual paint", "forgot only the", "Everybody in the class"]
    assert not [d for d in generated for fragment in fragments if fragment in d]


def test_ngram_probabilities_sum_to_one_and_prefer_what_was_seen():
    rng = np.random.default_rng(3)
    vocab = 7
    tokens = rng.choice(vocab - 1, size=400, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    for order in (1, 2, 4):
        model = NGram(tokens, order=order, vocab_size=vocab)
        contexts = [rng.integers(0, vocab, size=order - 1) for _ in range(20)]
        for context in contexts:
            probabilities = [model.probabilities(np.append(context, token))[0] for token in range(vocab)]
            assert sum(probabilities) == pytest.approx(1, abs=1e-12)
            assert min(probabilities) > 0
    cycle = NGram(np.arange(600) % 5, order=3, vocab_size=7)
    assert cycle.probabilities(np.array([1, 2, 3]))[0] > 0.9


def test_ngram_refuses_keys_that_overflow():
    with pytest.raises(ValueError, match=r"6-grams .* 5120 tokens"):
        NGram(np.zeros(10, dtype=int), order=6, vocab_size=5120)


DOWNLOADS = Path(__file__).parents[2] / "recipes" / "tiny" / "work" / "downloads"


@pytest.mark.parametrize(
    ("reader", "package", "phrase"),
    [(real.wordnet, "wordnet-base", "entity"), (real.austen, "r-cran-janeaustenr", "Emma Woodhouse, handsome")],
)
def test_real_packages_where_they_are_unpacked(reader, package, phrase):
    if not (DOWNLOADS / package).exists():
        pytest.skip(f"{package} is not unpacked: run the stage fetch")
    first = list(itertools.islice(reader(DOWNLOADS / package), 20))
    assert phrase in first[0]
    assert len(set(first)) == 20
