//! The values of a stored session: one text, and where in it each value stands.
use std::{fmt, ops::Range, sync::OnceLock};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::scan::{self, Field};

/// Values by key, as slices of the record they stand in. A value is decoded when it is asked for, not before.
#[derive(Clone, Default)]
pub(crate) struct Values {
    text: Bytes,
    /// Where in the text the object stands.
    object: Range<usize>,
    places: Option<Places>,
    /// Those of a record that was written: found when a handle asks for a value, which most requests do not do any more.
    written: OnceLock<Places>,
}

/// Where the fields stand, in the order of their keys, each key once.
#[derive(Clone, Default)]
struct Places {
    fields: Vec<Field>,
    /// The keys in which JSON had to escape something: most sessions have none.
    escaped: Vec<Box<str>>,
}

/// A key, and its value as JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) json: &'a [u8],
    /// Both, as they stand in an object, with nothing but `":` in between; empty if they stand nowhere like that.
    written: &'a [u8],
}

impl<'a> From<(&'a [u8], &'a [u8])> for Pair<'a> {
    fn from((key, json): (&'a [u8], &'a [u8])) -> Self {
        Self { key, json, written: &[] }
    }
}

impl<'a> Pair<'a> {
    /// The key stands in `text` without escapes, and the value behind it.
    fn within(text: &'a [u8], key: Range<usize>, value: Range<usize>) -> Option<Self> {
        let is_tight = value.start == key.end + 2;
        let written = if is_tight { text.get(key.start.checked_sub(1)?..value.end)? } else { &[] };
        Some(Self { key: text.get(key)?, json: text.get(value)?, written })
    }
}

impl Places {
    /// Of the object that `text` is from `start` to `end`, in the form that this crate writes.
    fn of_object(text: &[u8], start: usize, end: usize) -> Option<Self> {
        Some(Self { fields: scan::fields(text, start, end)?, escaped: Vec::new() })
    }

    /// Of `fields`, which were borrowed from `text`.
    fn of_fields(text: &[u8], fields: Fields<'_>) -> Option<Self> {
        let start = text.as_ptr() as usize;
        let place = |part: &str| {
            let from = (part.as_ptr() as usize).checked_sub(start)?;
            Some(from..from.checked_add(part.len())?)
        };
        let Fields(mut fields) = fields;
        fields.sort_by(|(one, _), (other, _)| one.text().cmp(other.text()));
        // This crate writes no key twice.
        fields.is_sorted_by(|(one, _), (other, _)| one.text() < other.text()).then_some(())?;
        let mut places = Self::default();
        for (key, value) in fields {
            let value = place(value.get())?;
            let field = match key {
                FieldKey::Borrowed(key) => Field::new(place(key)?, value)?,
                FieldKey::Owned(key) => {
                    places.escaped.push(key);
                    Field::escaped(places.escaped.len() - 1, value)?
                }
            };
            places.fields.push(field);
        }
        Some(places)
    }

    fn key<'a>(&'a self, field: Field, text: &'a [u8]) -> &'a [u8] {
        match field.key() {
            Ok(place) => text.get(place),
            Err(at) => self.escaped.get(at).map(|key| key.as_bytes()),
        }
        .unwrap_or_default()
    }
}

impl Values {
    /// These pairs, in the order of their keys, as an object outside of any record.
    pub(crate) fn of_pairs<'a>(pairs: impl Iterator<Item = Pair<'a>>) -> Self {
        let mut writer = Writer::new(Vec::new());
        pairs.for_each(|pair| writer.field(pair));
        writer.finish("")
    }

    /// The values of the object that stands in `text` from `start` to `end`, in the form that this crate writes.
    pub(crate) fn of_object(text: &Bytes, start: usize, end: usize) -> Option<Self> {
        let places = Some(Places::of_object(text, start, end)?);
        Some(Self { text: text.clone(), object: start..end, places, written: OnceLock::new() })
    }

    /// The values of `object`, which was borrowed from `text`, in any form that JSON has.
    pub(crate) fn of_raw(text: &Bytes, object: &str) -> Option<Self> {
        let start = (object.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
        let places = Some(Places::of_fields(text, serde_json::from_str(object).ok()?)?);
        let object = start..start.checked_add(object.len())?;
        Some(Self { text: text.clone(), object, places, written: OnceLock::new() })
    }

    fn places(&self) -> &Places {
        let find = || {
            let (text, Range { start, end }) = (&self.text, self.object.clone());
            let slowly = || Places::of_fields(text, serde_json::from_slice(text.get(start..end)?).ok()?);
            let found = if start == end { None } else { Places::of_object(text, start, end).or_else(slowly) };
            debug_assert!(found.is_some() || start == end, "what was written cannot be read");
            found.unwrap_or_default()
        };
        self.places.as_ref().unwrap_or_else(|| self.written.get_or_init(find))
    }

    pub(crate) fn len(&self) -> usize {
        self.places().fields.len()
    }

    fn place(&self, key: &[u8]) -> Option<Range<usize>> {
        let places = self.places();
        let at = places.fields.binary_search_by(|field| places.key(*field, &self.text).cmp(key)).ok()?;
        places.fields.get(at).map(|field| field.value())
    }

    /// The JSON of a value.
    pub(crate) fn json(&self, key: &str) -> Option<&[u8]> {
        self.text.get(self.place(key.as_bytes())?)
    }

    /// The JSON of a value; shares the record's memory.
    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        let place = self.place(key.as_bytes())?;
        (place.end <= self.text.len()).then(|| self.text.slice(place))
    }

    fn pair(&self, field: Field) -> Option<Pair<'_>> {
        match field.key() {
            Ok(key) => Pair::within(&self.text, key, field.value()),
            Err(_) => Some((self.places().key(field, &self.text), self.text.get(field.value())?).into()),
        }
    }

    /// Keys and the JSON of their values, in the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Pair<'_>> {
        self.places().fields.iter().map_while(|field| self.pair(*field))
    }

    /// The record that the values were read from or written to.
    pub(crate) fn text(&self) -> &Bytes {
        &self.text
    }

    /// What stands before the object, if nothing but the record's end stands behind it.
    pub(super) fn front(&self) -> Option<&[u8]> {
        (self.text.get(self.object.end..)? == b"}").then(|| self.text.get(..self.object.start))?
    }

    /// The bytes of the object alone: what the limit of a session's size counts.
    pub(crate) fn size(&self) -> usize {
        self.object.len()
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Writes a JSON object, at the end of a text.
pub(crate) struct Writer {
    text: Vec<u8>,
    start: usize,
}

impl Writer {
    pub(crate) fn new(text: Vec<u8>) -> Self {
        Self { start: text.len(), text }
    }

    fn is_empty(&self) -> bool {
        self.text.len() == self.start
    }

    /// Keys have to come in their order.
    pub(crate) fn field(&mut self, Pair { key, json, written }: Pair<'_>) {
        self.text.reserve(key.len() + json.len() + 4);
        self.text.push(if self.is_empty() { b'{' } else { b',' });
        if written.is_empty() {
            self.name(key);
            self.text.extend_from_slice(json);
        } else {
            self.text.extend_from_slice(written);
        }
    }

    fn name(&mut self, key: &[u8]) {
        self.text.push(b'"');
        if key.iter().all(|byte| *byte >= 0x20 && !matches!(byte, b'"' | b'\\')) {
            self.text.extend_from_slice(key);
        } else {
            let quoted = serde_json::Value::from(String::from_utf8_lossy(key)).to_string();
            let escaped = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
            self.text.extend_from_slice(escaped.as_bytes());
        }
        self.text.extend_from_slice(b"\":");
    }

    /// Closes the object, and writes `rest` behind it.
    pub(crate) fn finish(mut self, rest: &str) -> Values {
        self.text.extend_from_slice(if self.is_empty() { b"{}" } else { b"}" });
        let object = self.start..self.text.len();
        self.text.extend_from_slice(rest.as_bytes());
        Values { text: self.text.into(), object, places: None, written: OnceLock::new() }
    }
}

/// The fields of an object, borrowed from its text.
pub(crate) struct Fields<'a>(pub(super) Vec<(FieldKey<'a>, &'a RawValue)>);

pub(super) enum FieldKey<'a> {
    Borrowed(&'a str),
    Owned(Box<str>),
}

impl FieldKey<'_> {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(4);
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for FieldKey<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = FieldKey<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<FieldKey<'de>, E> {
                Ok(FieldKey::Borrowed(key))
            }
            fn visit_str<E: de::Error>(self, key: &str) -> Result<FieldKey<'de>, E> {
                Ok(FieldKey::Owned(key.into()))
            }
        }
        deserializer.deserialize_str(Key)
    }
}
