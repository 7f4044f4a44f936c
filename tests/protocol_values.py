"""Any value of any type of the wire, for hypothesis.

Made from the types themselves, so that a field that is added is tested without
anybody thinking of it. Texts hold what text can hold: quotes, backslashes,
control characters, characters outside the basic plane; but no half of a
surrogate pair, which no JSON writer of ours lets out.
"""

from functools import cache
from typing import Any, cast

import msgspec
from hypothesis import strategies as st
from msgspec import NODEFAULT, UNSET, Raw, inspect

from atrio_protocol.errors import ERRORS, ErrorObject
from atrio_protocol.struct import WireStruct

__all__ = ["texts", "values_of"]

DEPTH = 3

texts = st.text(
    alphabet=st.one_of(
        st.sampled_from('ab "\\/\n\r\t\b\f\x00\x1f\x7f\u2028\ufeffé\u202e😀𝄞'),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=20,
)

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@cache  # hypothesis looks into a strategy anew for each one that is made
def values_of(cls: type[WireStruct]) -> st.SearchStrategy[WireStruct]:
    """Any value of this type; what may be absent sometimes is. Deep inside, everything is as small as it can be."""
    return cast("st.SearchStrategy[WireStruct]", _of(inspect.type_info(cls), DEPTH))


def _of(place: inspect.Type, depth: int) -> st.SearchStrategy[Any]:
    match place:
        case inspect.StructType(cls=cls) if cls is ErrorObject:
            return st.builds(
                lambda kind, message: kind(message).to_object(), st.sampled_from(list(ERRORS.values())), texts
            )
        case inspect.StructType():
            return _struct(place, depth - 1)
        case inspect.UnionType(types=types):
            return st.one_of([_of(one, depth) for one in types])
        case inspect.VarTupleType(item_type=item):
            return st.lists(_of(item, depth), max_size=2).map(tuple) if depth > 0 else st.just(())
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.DictType():
            return st.dictionaries(texts, _json, max_size=2) if depth > 0 else st.just({})
        case inspect.IntType(ge=ge, le=le):
            return st.integers(-(2**53) if ge is None else ge, 2**53 if le is None else le)
        case inspect.StrType(min_length=least, max_length=most):
            return texts.filter(lambda text: (least or 0) <= len(text) <= (most or 1000))
        case inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.AnyType():
            return _json
        case inspect.RawType():
            return _json.map(lambda value: Raw(msgspec.json.encode(value)))
        case _:
            raise NotImplementedError(place)


def _struct(place: inspect.StructType, depth: int) -> st.SearchStrategy[Any]:
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in place.fields:
        # A default of UNSET is the one that is not told: such a field may be absent.
        may_be_absent = not field.required and field.default is NODEFAULT and field.default_factory is NODEFAULT
        if not may_be_absent:
            fields[field.name] = _of(field.type, depth)
        elif depth > 0:
            fields[field.name] = st.just(UNSET) | _of(field.type, depth)
    return st.builds(place.cls, **fields)
