"""What an assessing sentence says of the request, by rules for English: harmful, benign, or nothing.

The rules look for a statement (`_STATEMENTS`) whose subject is the request or what it asks for, and then for what turns
it: a negation, a condition, a question, a concession. `parser` finds the sentences.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from alttrain.records import Label

_QUOTED = re.compile('["“][^"”]*["”]')
INTERJECTIONS = (
    r"\W*(?:(?:okay|ok|alright|all right|hmm+|so|well|right|now|wait|first|and|but|anyway|basically|let me see|"
    r"let me think|it (?:seems|looks|sounds)(?: like| that)?)\b\W*)*"
)
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
        rf"^{INTERJECTIONS}(?!to\b)(?P<between>{_ADVERBS}){_WORD}(?:\s+{_NOUN})?(?:,?\s+(?:then|though|enough|overall))?\W*$",
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
    rf"{INTERJECTIONS}(?:is|are|was|could|can|would|may|might|does|do|will|should|what|how|why|which|who)\b.*\?\W*$",
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


def plain(text: str) -> str:
    """A text as the patterns read it: small letters (faster than to ignore the case) and straight apostrophes."""
    return text.lower().replace("’", "'")


@lru_cache(maxsize=256)  # a thought's assessment is asked for when it is found, and again for what it says
def verdict(sentence: str) -> Label | None:
    """What an assessment says of the request, or None where the sentence assesses nothing.

    Quoted words are the user's; a question, "whether this is harmful" and "if it is harmful" are no verdicts. A
    negation turns one. Of two verdicts the firm one counts before one that only "may" or "seems to" be so, then the one
    after a "but"; a concession ("although it sounds dangerous") counts only where it is alone.
    """
    text = plain(sentence)
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


def assessing_words(text: str) -> frozenset[str]:
    """The words of a text one of which a sentence of it must have to assess anything; none where no sentence can."""
    words = _words(text.lower())
    return words & _KEYS if _patterns(words) else frozenset()


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
