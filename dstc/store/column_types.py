"""Types of columns that only travel: made plain, brought to one over files, values never opened.

Arrow's own cast is used for values that hold no other values. Around them it is not: in 26.0 a cast
fails for a slice of structs with a child of type null, and makes invalid arrays of list views.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

is_of = pa.types

_LEAVES: tuple[Callable[[pa.DataType], bool], ...] = (
    is_of.is_integer,
    is_of.is_floating,
    is_of.is_decimal,
    lambda kind: is_of.is_string(kind) or is_of.is_large_string(kind),
    lambda kind: is_of.is_binary(kind) or is_of.is_large_binary(kind),
)
"""Families of types that differ in width alone."""


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without views, for which Arrow has no `take`, and which Parquet cannot write nested.

    Views have no limit of 2 GB, so what takes their place counts its text in 64 bits. Row groups
    have dictionaries of their own, and together more values than an int8 can count.

    Example:
        >>> plain_type(pa.list_(pa.string_view()))
        ListType(list<item: large_string>)
    """
    if is_of.is_string_view(kind):
        return pa.large_string()
    if is_of.is_binary_view(kind):
        return pa.large_binary()
    if isinstance(kind, pa.BaseExtensionType):
        storage = plain_type(kind.storage_type)
        return kind if storage == kind.storage_type else storage
    if is_of.is_dictionary(kind):
        return pa.dictionary(_wide(kind.index_type), plain_type(kind.value_type), kind.ordered)
    if is_of.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind.fields])
    if is_of.is_map(kind):
        key, item = plain_type(kind.key_type), plain_type(kind.item_type)
        return pa.map_(key, kind.item_field.with_type(item), kind.keys_sorted)
    if is_of.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)), kind.list_size)
    if _is_list(kind):
        make = pa.large_list if _is_large(kind) else pa.list_
        return make(kind.value_field.with_type(plain_type(kind.value_type)))
    return kind


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The plain type that holds all values of two plain types unchanged; None where none does.

    Example:
        >>> common_type(pa.int8(), pa.int32()), common_type(pa.int64(), pa.float64())
        (DataType(int32), None)
    """
    if one.equals(other):
        return one
    if is_of.is_null(one) or is_of.is_null(other):
        return other if is_of.is_null(one) else one
    if is_of.is_dictionary(one) or is_of.is_dictionary(other):
        return _common_dictionary(one, other)
    if is_of.is_struct(one) and is_of.is_struct(other):
        return _common_struct(one, other)
    if is_of.is_map(one) and is_of.is_map(other):
        key = common_type(one.key_type, other.key_type)
        item = common_type(one.item_type, other.item_type)
        return pa.map_(key, item) if key and item else None
    if _is_list(one) and _is_list(other):
        value = common_type(one.value_type, other.value_type)
        if value is None:
            return None
        return pa.large_list(value) if _is_large(one) or _is_large(other) else pa.list_(value)
    if is_of.is_fixed_size_list(one) and is_of.is_fixed_size_list(other):
        if one.list_size != other.list_size:
            return None
        value = common_type(one.value_type, other.value_type)
        return pa.list_(value, one.list_size) if value else None
    return _common_leaf(one, other)


def _common_dictionary(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    values = [kind.value_type if is_of.is_dictionary(kind) else kind for kind in (one, other)]
    value = common_type(*values)
    if value is None or not (is_of.is_dictionary(one) and is_of.is_dictionary(other)):
        return value
    index = common_type(one.index_type, other.index_type) or pa.int64()
    return pa.dictionary(index, value, one.ordered and other.ordered)


def _common_struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    fields = []
    for name in dict.fromkeys(field.name for field in (*one.fields, *other.fields)):
        if any(len(kind.get_all_field_indices(name)) > 1 for kind in (one, other)):
            return None
        found = [kind.field(name).type for kind in (one, other) if kind.get_field_index(name) >= 0]
        value = found[0] if len(found) == 1 else common_type(*found)
        if value is None:
            return None
        fields.append(pa.field(name, value))
    return pa.struct(fields)


def _common_leaf(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not any(is_leaf(one) and is_leaf(other) for is_leaf in _LEAVES):
        return None
    schemas = [pa.schema([pa.field("value", kind)]) for kind in (one, other)]
    try:
        found = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    # Arrow takes int64 for uint64 beside a signed type, which does not hold all of it.
    signs = {is_of.is_signed_integer(kind) for kind in (one, other) if is_of.is_integer(kind)}
    return None if len(signs) == 2 and pa.uint64() in (one, other) else found


def convert(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values as a type that `plain_type` or `common_type` made of theirs; as they are if of it.

    Args:
        values: (N,) of any type, a slice or not.

    Raises:
        ArrowException: text of more than 2 GB that is to be counted in 32 bits.
    """
    if values.type.equals(kind):
        return values
    if isinstance(values.type, pa.BaseExtensionType):
        return convert(values.storage, kind)
    if is_of.is_struct(kind) and is_of.is_struct(values.type):
        return _convert_struct(values, kind)
    if is_of.is_fixed_size_list(kind) and is_of.is_fixed_size_list(values.type):
        start, size = values.offset, kind.list_size
        flat = convert(values.values.slice(start * size, len(values) * size), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=values.is_null())
    if is_of.is_map(kind) and is_of.is_map(values.type):
        return _convert_map(values, kind)
    if _is_list(kind) and _is_list(values.type):
        return _convert_list(values, kind)
    return values.cast(kind)


def _convert_struct(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if not kind.num_fields:
        return values
    of_field = {field.name: place for place, field in enumerate(values.type.fields)}
    children = [
        convert(values.field(of_field[field.name]), field.type)
        if field.name in of_field
        else pa.nulls(len(values), field.type)
        for field in kind.fields
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind.fields), mask=values.is_null())


def _convert_list(values: pa.Array, kind: pa.DataType) -> pa.Array:
    # Null lists of views may hold values, which `flatten` leaves out.
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    flat = convert(values.flatten(), kind.value_type)
    if _is_large(kind):
        offsets, make = pa.array(ends, pa.int64()), pa.LargeListArray
    else:
        offsets, make = pa.array(ends, pa.int32()), pa.ListArray
    return make.from_arrays(offsets, flat, type=kind, mask=values.is_null())


def _convert_map(values: pa.Array, kind: pa.DataType) -> pa.Array:
    ends = values.offsets.to_numpy()
    start, stop = int(ends[0]), int(ends[-1])
    keys, items = (
        convert(child.slice(start, stop - start), of)
        for child, of in ((values.keys, kind.key_type), (values.items, kind.item_type))
    )
    offsets = pa.array(ends - start, pa.int32())
    return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=values.is_null())


def _wide(index: pa.DataType) -> pa.DataType:
    return index if index.bit_width >= 32 else pa.int32()


def _is_list(kind: pa.DataType) -> bool:
    return bool(is_of.is_list(kind) or is_of.is_list_view(kind) or _is_large(kind))


def _is_large(kind: pa.DataType) -> bool:
    return bool(is_of.is_large_list(kind) or is_of.is_large_list_view(kind))
