"""Languages against brute force, against what generators sample, and against the tokenizer."""

import re
from random import Random

import pytest

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits import load_task, make_task, tasks
from sparse_circuits.circuits.python_tasks import Values
from sparse_circuits.circuits.tasks import in_family
from sparse_circuits.programs.language import Slot, Template, count, fill, language, narrowed, place
from sparse_circuits.programs.tokens import fewer, random_assignment, tokenised
from tiny import ROOT


@pytest.fixture(scope="module")
def tokenizer():
    return CSPTokenizer.from_folder(ROOT)


def pattern(template: Template) -> re.Pattern:
    """A template as a regular expression; slots that stand twice hold the same."""
    seen, made = set(), ""
    for character in template.prompt:
        at = place(character)
        if at is None:
            made += re.escape(character)
        elif at in seen:
            made += f"(?P=s{at[0]}_{int(at[1])})"
        else:
            seen.add(at)
            texts = [text.capitalize() if at[1] else text for text in template.slots[at[0]].texts]
            made += f"(?P<s{at[0]}_{int(at[1])}>{'|'.join(map(re.escape, texts))})"
    return re.compile(made)


@pytest.mark.parametrize("split", [None, "test"])
@pytest.mark.parametrize("name", tasks())
def test_generators_sample_from_their_languages(name, split, tokenizer):
    task = load_task(name, tokenizer)
    patterns = [pattern(each) for each in language(task, split)]
    used = set()
    for seed in range(150):
        for prompt, _ in in_family(task.generator, Values(split or "train", Random(seed)), "main"):
            found = [i for i, each in enumerate(patterns) if each.fullmatch(prompt)]
            assert found, prompt
            used |= set(found)
    assert len(used) >= min(len(patterns), 8)  # and they are no dead letters


@pytest.mark.parametrize("name", ["with_as", "with_open", "while_return_true", "single_double_quote"])
def test_counts_are_those_of_brute_force(name, tokenizer):
    task = load_task(name, tokenizer)
    templates = language(task, "test")
    prompts = set()
    for template in templates:
        mine = [template.filled(template.prompt, chosen) for chosen in template.assignments()]
        assert len(mine) == template.count
        prompts |= set(mine)
    assert len(prompts) == count(templates)  # none is written twice


def test_slots_of_a_draw_are_different():
    slots = (Slot("word", ("a", "b", "c"), 0), Slot("word", ("a", "b", "c"), 0), Slot("number", ("1", "2"), 1))
    template = Template("\ue000 \ue001 \ue002", "", "", slots)
    assert template.count == len(list(template.assignments())) == 12
    assert all(a != b for a, b, _ in template.assignments())


def test_a_slot_that_stands_twice_and_with_a_capital(tokenizer):
    def twice(v, wording):
        name = v.name()
        return (f"class {name.capitalize()}:\n    {name} =", " 1\n"), (f"{name}.", f"{name}\n")

    templates = language(make_task("twice", twice, tokenizer), "test")
    assert [len(each.slots) for each in templates] == [1, 1]
    assert templates[0].filled(templates[0].prompt, ["node"]) == "class Node:\n    node ="
    assert fill("\uf000", ["node"]) == "Node"


@pytest.mark.parametrize("name", tasks())
def test_tokens_of_a_template_are_the_tokenizers(name, tokenizer):
    random = Random(1)
    for template in language(load_task(name, tokenizer)):
        made = tokenised(template, tokenizer)
        for _ in range(20):
            chosen = random_assignment(template, random)
            texts = [slot.texts[i] for slot, i in zip(template.slots, chosen)]
            prompt = template.filled(template.prompt, texts)
            assert made.ids(chosen) == tokenizer.encode(prompt, add_special_tokens=False)
            for answer, continuation in ((made.right, template.right), (made.wrong, template.wrong)):
                whole = tokenizer.encode(prompt + template.filled(continuation, texts), add_special_tokens=False)
                assert answer.at(chosen) == whole[len(made.ids(chosen))]


def test_answers_are_those_of_the_tasks_pairs(tokenizer):
    for name in ("class_init", "var_swap", "fstring_brace", "bracket_counting"):
        task = load_task(name, tokenizer)
        told = {}
        for template in language(task, "test"):
            made = tokenised(template, tokenizer)
            random = Random(2)
            for _ in range(3000):
                chosen = random_assignment(template, random)
                told.setdefault(tuple(made.ids(chosen)), set()).add((made.right.at(chosen), made.wrong.at(chosen)))
        pairs = task.pairs(200, "test", fewer=True)
        both = [(ids, tuple(answers)) for ids, answers in zip(pairs.prompts(), pairs.answers.tolist()) if ids in told]
        assert all(answers in told[ids] or name == "fstring_brace" for ids, answers in both)


def test_what_has_no_language_is_named(tokenizer, tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("prompt_a,answer_a,prompt_b,answer_b\n" + "".join(f"x{i} =, 1,y{i} =, 2\n" for i in range(9)))
    with pytest.raises(ValueError, match="is a file of pairs, which has no language"):
        language(load_task(file, tokenizer))

    def shuffled(v, wording):
        return (f"{v.random.gauss(0, 1)}", "a"), ("", "b")

    with pytest.raises(ValueError, match=r"draws by random\.gauss"):
        language(make_task("shuffled", shuffled, tokenizer))

    def glued(v, wording):
        return (f"{v.word()}{v.word()} =", " 1"), (f"{v.word()} =", " 2")

    with pytest.raises(ValueError, match="share a word"):
        [tokenised(each, tokenizer) for each in language(make_task("glued", glued, tokenizer))]


@pytest.mark.parametrize("name", tasks())
def test_what_no_prompt_differs_by_is_not_counted(name, tokenizer):
    """Slots of answers whose text does not change the answer's first token are no part of a language of tokens: no prompt is there twice."""
    found = []
    made = {
        each.template: each
        for each in (tokenised(narrowed(one, 2), tokenizer) for one in language(load_task(name, tokenizer), "test"))
    }
    for each in made.values():
        index = [{text: i for i, text in enumerate(slot.texts)} for slot in each.template.slots]
        for texts in each.template.assignments():
            chosen = [places[text] for places, text in zip(index, texts)]
            found.append((tuple(each.ids(chosen)), each.right.at(chosen), each.wrong.at(chosen)))
    assert len(found) == count(list(made)) == len(set(found))


@pytest.mark.parametrize("name", ["with_open", "if_equals", "bracket_counting", "class_init"])
def test_fewer_texts_are_what_they_would_be_alone(name, tokenizer):
    for made in [tokenised(each, tokenizer) for each in language(load_task(name, tokenizer), "test")]:
        for texts in (1, 3):
            assert fewer(made, texts, tokenizer) == tokenised(narrowed(made.template, texts), tokenizer)


def test_an_answer_that_few_texts_leave_alone_is_fixed(tokenizer):
    """The first two of these texts begin with the same token."""
    slots = (Slot("word", ("zqx", "zqy", "if"), 0),)
    made = tokenised(Template("x = \ue000\nprint(", "\ue000)", "None)", slots), tokenizer)
    assert len(set(made.right.by_text)) == 2
    assert fewer(made, 2, tokenizer) == tokenised(narrowed(made.template, 2), tokenizer)
    assert fewer(made, 2, tokenizer).right.slot is None
