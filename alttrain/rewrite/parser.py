"""A thought's text <-> its segments.

`render` joins segments by a blank line. `parse` reads text that any model wrote, by rules for English: it finds the
assessment, a sentence that states whether the request is harmful; what stands before it is the understanding, one or a
few sentences that say what the user wants, and any reasoning between the two; what follows is the conditional
reasoning: a `refusal` where it stops and refuses, else `reasoning`. Where an assessment precedes the reasoning it is
the inverse of `render`; a structure's own `parse` is so for its own thoughts, all of them.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

from alttrain.records import Label, Segment, Step
from alttrain.rewrite.sentences import sentences

SEPARATOR = "\n\n"

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*(?:\s+|$)")
_QUOTED = re.compile('["“][^"”]*["”]')
_INTERJECTIONS = (
    r"\W*(?:(?:okay|ok|alright|all right|hmm+|so|well|right|now|wait|first|and|but|anyway|basically|let me see|"
    r"let me think|it (?:seems|looks|sounds)(?: like| that)?)\b\W*)*"
)

# --- the words of an understanding ---

_PERSON = r"(?:(?:the|this|that|a|another)\s+(?:\w+\s+)?(?:user|person|asker|student)|user|someone|somebody)"
_ASKED = r"(?:request|question|query|prompt|problem|message|task|exercise|puzzle|scenario|situation|instruction)"
_WANTS = (
    r"(?:ask(?:s|ed|ing)?|want(?:s|ed|ing)?|wonder(?:s|ed|ing)?|request(?:s|ed|ing)?|look(?:s|ing) (?:for|to|into)|"
    r"seek(?:s|ing)?|inquir(?:es|ed|ing)|would like|'d like|needs?|tr(?:ies|ying) to|hop(?:es|ing) to|"
    r"plan(?:s|ning) to|intend(?:s|ing)? to|interested in|curious (?:about|how|what|why)|says|said|"
    r"wrote|writes|sent|means)"
)
_NO_MODAL = r"(?!\s+(?:if|to|or|not|never|might|may|could|should|can|will|must|gets?|understands?|\w+n't)\b)"
_META = r"(?:(?:the best way|how)(?: best)? )?(?:to )?(?:respond|answer|approach|handle|address|reply|proceed)"
_UNDERSTANDING = re.compile(
    # the user is asking for bread; they're new to this and want help
    rf"(?:^|[.!?:\n]\s){_INTERJECTIONS}{_PERSON}{_NO_MODAL}(?!')\b\s+\w|"
    rf"(?<!if )(?<!what )\b(?:{_PERSON}|they|he|she)(?:'s(?=\s+(?:\w+ly\s+|just\s+)?\w+ing\b)|'re|'d)?(?!')\b"
    rf"{_NO_MODAL}(?:\s+(?!not\b)[^\s.!?;]+){{0,12}}?\s+{_WANTS}\b|"
    r"\bit(?:'s asking| asks| says)\b|\buser who\b|"
    r"\buser's\s+(?:\w+\s+)?(?:(?:statement|claim|concern|comment|remark|view)\s*(?:about|that|:)|"
    r"(?:wish|goal|aim|purpose|desire|hope)\s+(?:is|was|seems)\b)|"
    # the question is how to bake; a request about bread; a problem here: "..."
    rf"\b{_ASKED}(?:\s+(?:here|at hand|is|was|seems to be))*,?\s+(?:that\s+|which\s+|just\s+)?"
    r"(?:about|how|what|why|which|where|who|whether|asks?|asking|asked|wants?|says|gives|mentions|involves|involving|"
    r"concerns|regarding|related to|requires|requesting)\b|"
    rf"\b(?:this|the|a|user's|their)\s+(?:\w+\s+)?{_ASKED}(?:\s+(?:is|was|here))?\s+(?:to|for|from|on)\b|"
    rf"\b{_ASKED}(?:\s+(?:is|was|says|reads))?\s*[:,]?\s*[\"“']|"
    # I need to find the sum; I'm given two sides
    r"\b(?:i|we)(?:'m| am| was|'ve been|'re| are) (?:given|told)\b|"
    rf"(?:^|[.!?:,\n]\s){_INTERJECTIONS}(?:i|we)(?:'m|'ve| am|'re| are)?\s+(?:just\s+)?"
    r"(?:need|have|got|want|trying|supposed|asked|going)\s+to\s+(?:find|calculate|compute|solve|prove|show|determine|"
    r"evaluate|estimate|express|write|translate|summari[sz]e|add|count|simplify|derive|convert|create|"
    rf"(?:figure|work) out(?! {_META}))\b|"
    rf"^\W*(?:okay|ok|alright|all right)\W+(?:so\W+)?(?:i|we) (?:need|have) to (?!{_META}|be |make sure|check|consider|"
    r"remember|think|figure)\w+(?! that\b)",
)
_OPENS = re.compile(
    r"^\W*(?:(?:okay|ok|alright|all right|hmm|so|well|first|now|let me see)\W+)*"
    r"(?:(?:the|this|a) (?:user|person)\s+\w+|i(?:'m| am)?\s+(?:need|have|trying|supposed|given)\b)",
)
_FILLER = re.compile(
    rf"{_INTERJECTIONS}(?:(?:let me|let's|i need to|i have to|i should)\s+(?:\w+\s+)?"
    rf"(?:see|think|start|understand|look at|tackle|work through|{_META}|figure out {_META})\b[^.!?]{{0,60}}|"
    r"(?:i|we)(?:'ve got| have| got)\s+(?:this|these|an?|the|two|three|some)\b.{0,200})?\W*",
    re.S,
)
_FIRST_PERSON = re.compile(r"\b(?:i|i'\w+|my|we|let's)\b")
_SUBJECT_IS_USER = re.compile(rf"{_INTERJECTIONS}{_PERSON}\b{_NO_MODAL}")
_OF_THE_USER = re.compile(rf"\b(?:{_PERSON}(?:'s)?|they|them|their|themselves)\b|^\W*(?:it|this|that|he|she)\b")
_CLOSES = re.compile(r"""^[^"“]*[^\s"“]["”]""")
"""A sentence that closes a quotation which another opened."""
_FEW = 4
"""Sentences an understanding has at most; as many of a thought's first are read for one by `TraceUnderstanding`."""

# --- the words of an assessment ---

_GOOD = "harmless benign safe innocent legitimate innocuous unproblematic"
_BAD = (
    "harmful unsafe dangerous illegal unlawful unethical malicious abusive hateful inappropriate criminal immoral "
    "offensive hurtful unacceptable harm"
)
_USUAL = "normal ordinary everyday routine reasonable valid genuine"
_DECENT = "fine okay ok acceptable appropriate allowed permitted legal lawful ethical"
"""Words that everything but a request is called, too ("that's fine, so x = 2")."""
_BLANKED = str.maketrans(dict.fromkeys(".,;:!?()[]*_/\"'“”‘’…—–", " "))
_REQUEST = r"(?:request|question|prompt|query|ask)s?"
_NOUN = (
    rf"(?:{_REQUEST}|(?:topic|task|content|intent(?:ion)?|wording|information|problem|message|subject|instruction)s?)"
)
_SUBJECT = (
    rf"(?P<subject>(?:the|such(?:\s+an?)?|this|their|each|both)(?:\s+(?:user|person)'s)?(?:\s+\w+)?\s+{_NOUN}|"
    r"this|that|it|they|there|both)"
)
_IS = (
    r"(?:\b(?:is|are|be|was|were|has|have|seems?|appears?|sounds?|looks?|poses?|carr(?:y|ies)|involves?|contains?|could|can|"
    r"may|might|would)\b|'s\b|'re\b|n't\b)"
)
_WORD = (
    rf"(?:(?P<harmless>{'|'.join(_GOOD.split())})(?! to (?:say|assume|conclude))|"
    rf"(?P<harmful>{'|'.join(_BAD.split())}))\b"
)
_FAIR = rf"(?P<harmless>{'|'.join(_DECENT.split())})\b(?! \w+s\b)"
_ADVERBS = r"(?:(?:as|to be|is|an?|not|never|very|quite|rather|just|also|still|all|\w+ly)\s+){0,4}"
_PEOPLE = (
    r"(?:\w+\s+){0,2}(?:people|persons?|others|someone|somebody|anyone|individuals?|children|victims?|users?|animals?|"
    r"them|themselves|society|communit(?:y|ies)|public)"
)
_LAWS = r"(?:laws?|privacy|rights|guidelines|polic(?:y|ies)|consent|copyright|ethics|terms of (?:use|service))"
_DEEDS = (
    rf"\b(?:hurt|harm|endanger|injure|exploit|threaten|humiliate|demean)s?\s+{_PEOPLE}|"
    r"\b(?:caus|do|bring|inflict)(?:e|es|s)?\s+(?:\w+\s+){0,2}(?:harm|damage|injury|suffering)|"
    rf"\b(?:violat|break|breach|infring)(?:e|es|s)?\s+(?:[\w']+\s+){{0,4}}?{_LAWS}|"
    rf"(?:\b(?:is|are|be|was|goe?s?)|'s)\s+(?:\w+ly\s+)?against\s+(?:[\w']+\s+){{0,3}}?{_LAWS}|"
    r"(?:\b(?:is|are|be|constitutes?)|'s)\s+(?:(?:not|no|an?|form|kind|serious|federal|of|also|\w+ly)\s+){0,4}"
    r"(?:crime|felony|fraud|harassment|theft|abuse|stalking|blackmail|hate speech|(?:privacy )?violation|"
    r"invasion of privacy)|"
    r"\b(?:pose|carrie|carry|present|create)s?\s+(?:\w+\s+){0,3}(?:risk|danger|threat)"
)
_HURTING = (
    "hurt hurts harm harms endanger endangers injure injures exploit exploits threaten threatens humiliate humiliates "
    "demean demeans injury damage suffering violate violates break breaks breach breaches infringe infringes against "
    "crime felony fraud harassment theft abuse stalking blackmail hate violation invasion risk danger threat"
)
_AIDING = "asking answering helping assisting providing sharing discussing explaining describing complying"
_HELPING = rf"(?:{'|'.join(_AIDING.split())})"
_JUDGING = "consider call find judge deem regard see view treat rate classify assess label"
_HEADING = "assessment verdict judgement judgment classification conclusion evaluation harmfulness safety label rating"
_WORRY = "harm harms risk risks danger dangers problem problems issue issues concern concerns wrong"
_CALLED = f"{_GOOD} {_BAD}"


def _pattern(needs: Sequence[str], text: str) -> tuple[tuple[frozenset[str], ...], re.Pattern[str]]:
    return tuple(frozenset(words.split()) for words in needs), re.compile(text)


_STATEMENTS = (
    # this request is harmful
    _pattern([_CALLED], rf"\b{_SUBJECT}(?P<between>[^.!?;:\n]{{0,70}}?{_IS}[^.!?;:\n]{{0,40}}?)\b{_WORD}"),
    # asking that is harmless
    _pattern(
        [_CALLED, _AIDING],
        rf"\b{_HELPING}\b[^.!?;:,]{{0,60}}?(?P<between>{_IS}[^.!?;:\n]{{0,40}}?)\b{_WORD}",
    ),
    # this request is fine
    _pattern(
        [_DECENT],
        rf"\b(?:the|this|such an?)\s+(?:\w+\s+)?{_REQUEST}(?P<between>\s*{_IS}\s+{_ADVERBS}){_FAIR}",
    ),
    # it is okay to answer
    _pattern(
        [_DECENT, "answer help assist discuss"],
        rf"\b(?:this|that|it)(?P<between>\s*{_IS}\s+{_ADVERBS}){_FAIR}\s+(?:for me )?to\s+"
        r"(?:answer|help|assist|discuss)\b",
    ),
    # this is not legal
    _pattern(
        [_DECENT],
        r"\b(?P<subject>this|that|it)\s*(?P<between>(?:(?:is|was|would be|'s)\s+(?:\w+ly\s+)?not|"
        rf"(?:is|was|would)n't(?: be)?)\s+{_ADVERBS}){_FAIR}",
    ),
    # this is an everyday request
    _pattern(
        [_USUAL, "request question query prompt"],
        rf"\b{_SUBJECT}(?P<between>\s*{_IS}\s+{_ADVERBS})(?P<harmless>{'|'.join(_USUAL.split())})\b[^.!?;:]{{0,30}}?\b{_REQUEST}\b",
    ),
    # I consider this harmful
    _pattern(
        [_CALLED, _JUDGING],
        rf"(?P<unsaid>(?:n't|\bnot|\bnever)\s+(?:\w+\s+)?)?\b(?:{'|'.join(_JUDGING.split())})\s+(?:this|that|it|the|such)(?:\s+(?!is\b)[\w']+){{0,3}}?\s+"
        rf"(?P<between>{_ADVERBS}){_WORD}",
    ),
    # Assessment: harmful
    _pattern(
        [_CALLED, _HEADING],
        rf"\b(?:{'|'.join(_HEADING.split())})\b[\s*_]*[:=–—-]\W*(?P<between>{_ADVERBS}){_WORD}",
    ),
    # Clearly harmless, then.
    _pattern(
        [_CALLED],
        rf"^{_INTERJECTIONS}(?!to\b)(?P<between>{_ADVERBS}){_WORD}(?:\s+{_NOUN})?(?:,?\s+(?:then|though|enough|overall))?\W*$",
    ),
    # this would hurt people, it breaks the law, that is a crime
    _pattern(
        [_HURTING],
        rf"(?:\b{_SUBJECT}|(?:^|,\s)\w+ing)\b(?P<between>[^.!?;:\n]{{0,60}}?)"
        rf"(?P<harmful>(?P<deed>{_DEEDS}))\b",
    ),
    # no harm in asking, nothing wrong with this
    _pattern(
        [_WORRY, "no any nothing"],
        r"(?P<harmless>(?:\bno|(?:n't|\bnot)(?:\s+(?:see|have|find))?\s+any)\s+(?:\w+\s+)?(?:(?:harm|risk|danger)s?\s+"
        r"(?:here|in|with|to)|(?:problem|issue|concern)s?\s+(?:with|in|about)\s+"
        rf"(?:this|that|it|{_HELPING}|the (?:user|request|question|topic)))|"
        r"\bnothing\s+wrong\s+(?:with|about|in))\b(?P<between>)",
    ),
)
"""Ways to state a verdict: the sets of words of which a clause must have one each, and the pattern, which is slower."""
_CONTRASTS = frozenset(
    ["but", "however", "nevertheless", "yet", "although", "though", "while", "whilst", "despite", "even"]
)
_KEYS = frozenset().union(*(needs[0] for needs, _ in _STATEMENTS))
_WORDS = _CONTRASTS.union(*(words for needs, _ in _STATEMENTS for words in needs))
_NEGATES = re.compile(
    r"n't\b|\b(?:not(?! only| just| merely)|no|nothing|neither|never|nobody|far from|hardly|anything but)\b", re.I
)
_DENIES = re.compile(
    r"(?:(?:n't|\bnot|\bnever)\s+(?:\w+\s+)?(?:think|believe|say|feel|find|consider|call|mean|see)|"
    r"\b(?:nothing|no reason|hard to see))\b(?:(?!\b(?:because|since|as|so|and)\b)[^,;]){0,40}$",
)
_HYPOTHETICAL = re.compile(
    r"(?:\b(?:if|whether|unless|assuming|suppos(?:e|ing)|in case|sure|ensur(?:e|es|ing)|verify|check)(?:\s+that)?|"
    r"^\W*(?:is|are))\s+(?:\w+\s+){0,2}$|\b(?:avoid|without)\b[^.;]*$",
)
_LEAVES = re.compile(
    r"\b(?:because|since|so|which|if|whether|who|when|know|reali[sz]e|aware|and (?:it|this|they))\b|"
    r"(?<!as )\b(?:i|i'\w+)\b"
)
"""What between subject and verdict begins another clause, so that the verdict is not of that subject."""
_WISHES = re.compile(r"\b(?:how|want|ask|try)")
"""A deed that is asked for ("they want to hurt someone") is not yet judged."""
_ASKS = re.compile(
    rf"{_INTERJECTIONS}(?:is|are|was|could|can|would|may|might|does|do|will|should|what|how|why|which|who)\b.*\?\W*$",
    re.S,
)
_OPEN = re.compile(r"\s+or\s+(?:not|is|harmless|harmful|benign|safe|unsafe|legitimate|malicious|illegal)\b")
_CLAUSE_ENDS = re.compile(
    r"(?:^|[^\w\s]\s*|\b(?:and|but|so|or|because|since|as|think|believe|like|say|says|see|means?|know|feel|now|yes|then|"
    r"clear|conclude|decide|judge|say|yet|however|therefore|seems?)\s+)$",
)
"""What "that" follows where it is the request, and not a part of "anything that is harmful"."""
_TURNS = re.compile(
    r"(?<!anything )(?<!nothing )\bbut\b(?!\s+also)|\bhowever\b|\bnevertheless\b|,\s*yet\b|\byet\s+(?=it|this|the)",
)
_CONCEDES = re.compile(r"\b(?:although|(?:even )?though|while|whilst|despite|even if)\b\s+\w[^,;]*")
_HEDGES = re.compile(r"\b(?:may|might|could|can|seems?|sounds?|looks?|appears?)\b")
_BARE = re.compile(rf"\W*(?!to\b){_ADVERBS}{_WORD}")

# --- the words of a refusal ---

_STOPS_WITHIN = 50
"""Words within which a refusal ends after a request was called harmless; what is longer has gone on reasoning."""
_REFUSES = re.compile(
    r"\b(?:refuse|refusing|decline|declining|turn (?:this|it) down)\b|"
    r"\b(?:can(?:not|'t)|must not|should(?: not|n't)|will not|won't|not able to|unable to)"
    r"(?:\W*$|\s+(?:\w+\s+){0,2}"
    r"(?:help|assist|answer|provide|give|comply|support|continue|go on|do (?:this|that|it)|fulfil))",
)


def render(segments: Sequence[Segment]) -> str:
    """The thought as the model sees it."""
    return SEPARATOR.join(segment.text for segment in segments)


def _plain(text: str) -> str:
    """A text as the patterns read it: small letters (faster than to ignore the case) and straight apostrophes."""
    return text.lower().replace("’", "'")


@lru_cache(maxsize=256)  # a thought's assessment is asked for when it is found, and again for what it says
def verdict(sentence: str) -> Label | None:
    """What an assessment says of the request, or None where the sentence assesses nothing.

    Quoted words are the user's; a question, "whether this is harmful" and "if it is harmful" are no verdicts. A
    negation turns one. Of two verdicts the firm one counts before one that only "may" or "seems to" be so, then the one
    after a "but"; a concession ("although it sounds dangerous") counts only where it is alone.
    """
    text = _plain(sentence)
    words = _words(text)
    if not _patterns(words):
        return None
    text = _QUOTED.sub("", text)
    if "?" in text and _ASKS.match(text):
        return None
    if words.isdisjoint(_CONTRASTS):
        found = _statement(text, words)
        return found[0] if found else None
    for reading in dict.fromkeys((_CONCEDES.sub("", text), text)):
        said = [found for clause in _clauses(reading) if (found := _statement(clause, _words(clause)))]
        if said:
            firm = [label for label, hedged in said if not hedged]
            return firm[-1] if firm else said[-1][0]
    return None


def _words(text: str) -> frozenset[str]:
    """The words of a text that matter to a verdict: a cheap test before any pattern is tried."""
    return _WORDS.intersection(text.translate(_BLANKED).split())


@lru_cache(maxsize=4096)
def _patterns(words: frozenset[str]) -> tuple[re.Pattern[str], ...]:
    """The statements that a text of these words may hold."""
    return tuple(pattern for needs, pattern in _STATEMENTS if not any(need.isdisjoint(words) for need in needs))


def _clauses(sentence: str) -> Iterator[str]:
    """The sentence between its turns; what has no subject of its own ("legal but unethical") is given one."""
    first, *others = _TURNS.split(sentence)
    yield first
    for clause in others:
        yield f"it is {clause.strip()}" if _BARE.match(clause) else clause


def _statement(clause: str, words: frozenset[str]) -> tuple[Label, bool] | None:
    """The first verdict of a clause, and whether it is hedged."""
    found = [read for pattern in _patterns(words) if (read := _read(pattern, clause))]
    return min(found)[1:] if found else None


def _read(pattern: re.Pattern[str], clause: str) -> tuple[int, Label, bool] | None:
    """(end, label, hedged) of a pattern's first match that is a verdict."""
    position = 0
    while found := pattern.search(clause, position):
        position = found.start() + 1
        groups, before, between = found.groupdict(), clause[: found.start()], found["between"]
        relative = groups.get("subject") == "that" and not _CLAUSE_ENDS.search(before)
        if "deed" in groups and _WISHES.search(between):
            continue
        if relative or _LEAVES.search(between) or _HYPOTHETICAL.search(before) or _OPEN.match(clause, found.end()):
            continue
        harmful = groups.get("harmful")
        negated = _NEGATES.search(between + (harmful or "")) is not None
        denied = bool(groups.get("unsaid") or _DENIES.search(before))
        label: Label = "harmful" if (harmful is not None) != (negated != denied) else "benign"
        return found.end(), label, _HEDGES.search(between) is not None
    return None


@lru_cache(maxsize=256)  # a sentence is asked about alone, and again with those beside it
def is_understanding(text: str) -> bool:
    """Whether a text says what the user wants or what the problem asks, more than that there is a user or a request."""
    return _UNDERSTANDING.search(_plain(text)) is not None


def refuses(text: str) -> bool:
    """Whether conditional reasoning stops and refuses; only its first two sentences decide."""
    opening = " ".join(_SENTENCE_END.split(text.strip(), 2)[:2])
    return _REFUSES.search(_plain(opening)) is not None


def parse(thought: str) -> tuple[Segment, ...]:
    """The segments of a thought in the order they stand in. An empty thought has none.

    A mere "Hmm." before an assessment is no step, and left out.
    """
    text = thought.strip("\n")
    paragraphs = text.split(SEPARATOR) if text.strip() else []
    found = _find_assessment(paragraphs)
    if found is None:
        return tuple(_unassessed(paragraphs))
    before, assessment, after = found
    segments = list(_before(before))
    understood = any(segment.step == "understanding" for segment in segments)
    segments.append(_segment("assessment", assessment))
    if not understood and 0 < len(after.split()) <= _STOPS_WITHIN:  # what is longer is a trace from its first word
        opening, _, rest = after.partition(SEPARATOR)
        if _is_own_understanding(opening):
            segments.append(_segment("understanding", opening))
            after = rest.strip("\n")
    if after:
        goes_on = verdict(assessment) == "benign" and len(after.split()) > _STOPS_WITHIN
        segments.append(_segment("reasoning" if goes_on else _continuation(after), after))
    return tuple(segments)


def _find_assessment(paragraphs: list[str]) -> tuple[str, str, str] | None:
    """(text before, assessing sentence, text after). An opening that says what the user wants is not the assessment."""
    for index, paragraph in enumerate(paragraphs):
        words = _words(paragraph.lower())
        if not _patterns(words):
            continue
        keys = words & _KEYS
        for position, (start, end) in enumerate(sentences(paragraph)):
            sentence = paragraph[start:end]
            lower = sentence.lower()
            for key in keys:
                if key in lower:
                    break
            else:
                continue
            opens = index == 0 and position == 0 and _OPENS.match(_plain(sentence))
            if opens or verdict(sentence) is None:
                continue
            before = SEPARATOR.join([*paragraphs[:index], paragraph[:start].rstrip()]).strip("\n")
            after = SEPARATOR.join([paragraph[end:].lstrip(), *paragraphs[index + 1 :]]).strip("\n")
            return before, sentence, after
    return None


def _before(text: str) -> Iterator[Segment]:
    """What precedes an assessment: an understanding, and the reasoning on either side of it."""
    span = _find_understanding(text)
    if span is None and _FILLER.fullmatch(_plain(text)):
        return
    if span is None:
        yield _segment(_continuation(text), text)
        return
    for step, part in zip(
        ("", "understanding", ""), (text[: span[0]], text[slice(*span)], text[span[1] :]), strict=True
    ):
        if part := part.strip():
            yield _segment("understanding" if step else _continuation(part), part)


def _find_understanding(text: str) -> tuple[int, int] | None:
    """(start, end) of the sentence that says what is wanted, with those beside it that are about the user, too.

    So is what stands between two that say what is wanted.
    """
    found: tuple[int, int] | None = None
    count, goes_on = 0, True
    for start, end in sentences(text):
        sentence = text[start:end]
        count += 1
        if is_understanding(sentence):
            if found is None:
                found = 0 if goes_on and count <= _FEW else start, end
                count, goes_on = 1, True
            elif not refuses(sentence):
                found = found[0], end
        else:
            goes_on = goes_on and _goes_with(sentence)
            if found and goes_on:
                found = found[0], end
        if found and count == _FEW:
            break
    return found


def _goes_with(sentence: str) -> bool:
    """Whether a sentence beside an understanding belongs to it: it is about the user, or says nothing."""
    text = _plain(sentence)
    if _CLOSES.match(text) or _FILLER.fullmatch(text):
        return True
    about = _OF_THE_USER.search(text) is not None and not _FIRST_PERSON.search(text)
    return (about or is_understanding(text)) and not refuses(text)


def _unassessed(paragraphs: list[str]) -> list[Segment]:
    """Segments of a thought without an assessment: an understanding, if it opens with one, then the reasoning."""
    if not paragraphs:
        return []
    whole = SEPARATOR.join(paragraphs)
    end = 0
    for start, stop in sentences(paragraphs[0]):
        sentence = paragraphs[0][start:stop]
        if _says_alone(sentence):
            end = stop
        elif end or not _goes_with(sentence):
            break
    if not end:
        return [_segment(_continuation(whole), whole)]
    rest = whole[end:].strip()
    if _FILLER.fullmatch(_plain(rest)):
        return [_segment("understanding", whole)]
    return [_segment("understanding", whole[:end].strip()), _segment(_continuation(rest), rest)]


def _says_alone(sentence: str) -> bool:
    return is_understanding(sentence) and not refuses(sentence) and verdict(sentence) is None


def _is_own_understanding(paragraph: str) -> bool:
    """Whether a paragraph after the assessment is one sentence, and that says what the user wants."""
    said = [paragraph[start:end] for start, end in sentences(paragraph)]
    return len(said) == 1 and _SUBJECT_IS_USER.match(_plain(said[0])) is not None and _says_alone(said[0])


def _continuation(text: str) -> Literal["refusal", "reasoning"]:
    return "refusal" if refuses(text) else "reasoning"


def _segment(step: Step, text: str) -> Segment:
    return Segment(step, text, "parsed")
