"""Whether a text is English, as far as its commonest words and its letters tell.

For judges that read English: what they cannot read they leave undecided. Texts without such words
(names, numbers, code) count as English.
"""

import re

LONGEST = 600
"""Characters that are looked at."""

_FREQUENT = {
    "English": "the of and to i you that it is for with are this can can't cannot not have but from by my your will at",
    "Spanish": "que para una pero como puedo por del esta lo es de el",
    "German": "der das und ist nicht ein eine ich mit auf zu im von sich aber wird kann",
    "French": "le la les des une est et pas je vous ne dans avec qui cette mais",
    "Italian": "il che di non sono con questa posso gli ecco della",
    "Portuguese": "uma com isso em os mais",
    "Dutch": "het een niet ik voor dat maar",
    "Vietnamese": "cho anh em khi trong xin",  # those that carry no marks
    "Swahili": "na ya kwa ni hii za katika siwezi",
    "Indonesian and Javanese": "yang dan untuk tidak saya ini dengan itu aku ora iki",
}
"""Frequent words; the foreign ones are no English words."""
_ENGLISH = frozenset(_FREQUENT["English"].split())
_FOREIGN = frozenset(" ".join(_FREQUENT.values()).split()) - _ENGLISH
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def is_english(text: str) -> bool:
    """False where most letters are not Latin, or where foreign words outnumber the English ones."""
    words = _WORD.findall(text[:LONGEST].lower())
    letters = "".join(words)
    if sum(ord(letter) > 0x2AF and not 0x1E00 <= ord(letter) <= 0x1EFF for letter in letters) * 2 > len(letters):
        return False
    english = sum(word in _ENGLISH for word in words)
    foreign = [word for word in words if word in _FOREIGN or (word.isalpha() and not word.isascii())]
    return len(set(foreign)) < 2 or len(foreign) <= english
