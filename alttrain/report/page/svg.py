"""Figures that stand as SVG files -> SVG that may stand in the page.

The page's policy forbids style attributes and anything that loads, and two figures may use the same ids. So an SVG is
not pasted but copied: known elements and attributes only, style written as attributes, ids under the figure's name.
"""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from alttrain.report.page.markup import text

_DRAWING = (
    "svg g defs symbol use title desc path rect circle ellipse line polyline polygon text tspan clipPath mask marker "
    "linearGradient radialGradient stop pattern"
)
_LOOK = (
    "id d x y x1 x2 y1 y2 cx cy r rx ry dx dy fx fy points width height viewBox preserveAspectRatio transform href "
    "gradientUnits gradientTransform patternUnits patternTransform offset clipPathUnits maskUnits markerWidth "
    "markerHeight refX refY orient markerUnits overflow fill fill-opacity fill-rule stroke stroke-width "
    "stroke-opacity stroke-linecap stroke-linejoin stroke-dasharray stroke-dashoffset stroke-miterlimit opacity color "
    "clip-path clip-rule mask stop-color stop-opacity font-family font-size font-style font-weight text-anchor "
    "dominant-baseline letter-spacing visibility display marker-start marker-mid marker-end vector-effect paint-order"
)
ELEMENTS, ATTRIBUTES = frozenset(_DRAWING.split()), frozenset(_LOOK.split())
FONT = re.compile(r"(?:(italic|oblique|normal)\s+)?(?:(bold|[1-9]00)\s+)?([\d.]+(?:px|pt))(?:/\S+)?\s+(.+)")
LOCAL = re.compile(r"url\(\s*['\"]?#([^'\")]+)['\"]?\s*\)")


def inline(source: str, name: str) -> str:
    """The SVG for the page, named for screen readers. Raises ValueError where the source is not SVG."""
    try:
        root = ElementTree.fromstring(source)
    except ElementTree.ParseError as error:
        raise ValueError(f"figure {name}: not XML: {error}") from error
    if _local(root.tag) != "svg":
        raise ValueError(f"figure {name}: expected svg, found {_local(root.tag)}")
    identity = re.sub(r"\W+", "-", name)
    # what plotting tools put into a style sheet, which is left out
    given = {"role": "img", "aria-label": name, "stroke-linejoin": "round", "stroke-linecap": "butt"}
    return "".join(_copied(root, f"{identity}-", given))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _copied(node: ElementTree.Element, prefix: str, given: dict[str, str]) -> Iterator[str]:
    tag = _local(node.tag) if isinstance(node.tag, str) else ""
    if tag not in ELEMENTS:
        return
    attributes = {**given, **dict(_attributes(node, prefix))}
    yield f"<{tag}" + "".join(f' {key}="{text(value)}"' for key, value in attributes.items()) + ">"
    if tag in ("text", "tspan", "title", "desc"):
        yield text(node.text or "")
    for child in node:
        yield from _copied(child, prefix, {})
        if tag in ("text", "tspan"):
            yield text(child.tail or "")
    yield f"</{tag}>"


def _attributes(node: ElementTree.Element, prefix: str) -> Iterator[tuple[str, str]]:
    given = {_local(key): value for key, value in node.attrib.items()}
    for key, value in {**given, **dict(_declared(given.get("style", "")))}.items():
        if key not in ATTRIBUTES:
            continue
        if key == "id":
            yield key, prefix + value
        elif key == "href":
            if value.startswith("#"):
                yield key, f"#{prefix}{value[1:]}"
        elif "url(" not in LOCAL.sub("", value):
            yield key, LOCAL.sub(rf"url(#{prefix}\1)", value)


def _declared(style: str) -> Iterator[tuple[str, str]]:
    """The declarations of a style attribute; "font" is written out, as it has no attribute."""
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font" and (found := FONT.fullmatch(value)):
            names = ("font-style", "font-weight", "font-size", "font-family")
            yield from ((name, part) for name, part in zip(names, found.groups(), strict=True) if part)
        elif value:
            yield key, value
