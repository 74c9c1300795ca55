//! The values of a stored session: one text, and where in it each value stands.
use std::{fmt, ops::Range};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::scan;

/// Values by key, as slices of the record they came in. Nothing is decoded until somebody asks for it.
#[derive(Default)]
pub(crate) struct Values {
    text: Bytes,
    /// In the order of their keys, each key once.
    fields: Vec<Field>,
    /// The keys in which JSON had to escape something: most sessions have none.
    escaped: Vec<Box<str>>,
}

/// Where a key and its value stand in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    key: Place,
    value: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u32,
    end: u32,
}

/// The `start` of a key that stands among the escaped ones, at its `end`.
const ESCAPED: u32 = u32::MAX;

impl Place {
    fn of(range: Range<usize>) -> Option<Self> {
        Some(Self { start: u32::try_from(range.start).ok()?, end: u32::try_from(range.end).ok()? })
    }

    fn slice(self, text: &[u8]) -> &[u8] {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

impl Field {
    pub(super) fn plain(key: Range<usize>, value: Range<usize>) -> Option<Self> {
        Some(Self { key: Place::of(key)?, value: Place::of(value)? })
    }

    fn escaped(at: usize, value: Range<usize>) -> Option<Self> {
        Some(Self { key: Place { start: ESCAPED, end: u32::try_from(at).ok()? }, value: Place::of(value)? })
    }
}

impl Values {
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    fn key(&self, field: &Field) -> &[u8] {
        if field.key.start == ESCAPED {
            self.escaped.get(field.key.end as usize).map(|key| key.as_bytes()).unwrap_or_default()
        } else {
            field.key.slice(&self.text)
        }
    }

    fn position(&self, key: &[u8]) -> Option<usize> {
        self.fields.binary_search_by(|field| self.key(field).cmp(key)).ok()
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.position(key.as_bytes()).is_some()
    }

    /// The JSON of a value; shares the record's memory.
    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        let field = self.fields.get(self.position(key.as_bytes())?)?;
        Some(self.text.slice(field.value.start as usize..field.value.end as usize))
    }

    /// Keys and the JSON of their values, in the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|field| (self.key(field), field.value.slice(&self.text)))
    }

    /// The values of the object that stands in `text` from `start` to `end`, if it is in the form that this crate writes.
    pub(crate) fn of_plain(bytes: &Bytes, text: &str, start: usize, end: usize) -> Option<Self> {
        let fields = scan::fields(text, start, end)?;
        Some(Self { text: bytes.clone(), fields, escaped: Vec::new() })
    }

    /// Finds the places of `fields`, which were borrowed from `text`.
    pub(crate) fn of_record(text: &Bytes, fields: Fields<'_>) -> Option<Self> {
        let start = text.as_ptr() as usize;
        let place = |part: &str| {
            let from = (part.as_ptr() as usize).checked_sub(start)?;
            Some(from..from.checked_add(part.len())?)
        };
        let mut values = Self { text: text.clone(), fields: Vec::with_capacity(fields.0.len()), escaped: Vec::new() };
        for (key, value) in fields.0 {
            let value = place(value.get())?;
            values.fields.push(match key {
                FieldKey::Borrowed(key) => Field::plain(place(key)?, value)?,
                FieldKey::Owned(key) => {
                    values.escaped.push(key);
                    Field::escaped(values.escaped.len() - 1, value)?
                }
            });
        }
        if !values.is_sorted() {
            let mut fields = std::mem::take(&mut values.fields);
            fields.sort_by(|a, b| values.key(a).cmp(values.key(b)));
            values.fields = fields;
            // A key that stands there twice is nothing that this crate wrote.
            values.is_sorted().then_some(())?;
        }
        Some(values)
    }

    fn is_sorted(&self) -> bool {
        self.fields.is_sorted_by(|a, b| self.key(a) < self.key(b))
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Writes a JSON object and remembers where in it each value went.
pub(crate) struct Writer {
    pub(crate) text: Vec<u8>,
    fields: Vec<Field>,
    escaped: Vec<Box<str>>,
}

impl Writer {
    pub(crate) fn new(text: Vec<u8>, fields: usize) -> Self {
        Self { text, fields: Vec::with_capacity(fields), escaped: Vec::new() }
    }

    /// Keys have to come in their order.
    pub(crate) fn field(&mut self, key: &[u8], value: &[u8]) {
        self.text.push(if self.fields.is_empty() { b'{' } else { b',' });
        self.text.push(b'"');
        let start = self.text.len();
        let plain = key.iter().all(|byte| *byte >= 0x20 && !matches!(byte, b'"' | b'\\'));
        if plain {
            self.text.extend_from_slice(key);
        } else {
            let key = String::from_utf8_lossy(key).into_owned();
            let quoted = serde_json::Value::from(key.as_str()).to_string();
            let escaped = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
            self.text.extend_from_slice(escaped.as_bytes());
            self.escaped.push(key.into());
        }
        let end = self.text.len();
        self.text.extend_from_slice(b"\":");
        let from = self.text.len();
        self.text.extend_from_slice(value);
        let value = from..self.text.len();
        // Records are bounded far below 4 GiB: see `SessionStore::max_bytes`.
        let field = if plain { Field::plain(start..end, value) } else { Field::escaped(self.escaped.len() - 1, value) };
        self.fields.extend(field);
    }

    /// Closes the object, and the record around it with `tail`.
    pub(crate) fn finish(mut self, tail: &[u8]) -> (Bytes, Values) {
        self.text.extend_from_slice(if self.fields.is_empty() { b"{}" } else { b"}" });
        self.text.extend_from_slice(tail);
        let text = Bytes::from(self.text);
        (text.clone(), Values { text, fields: self.fields, escaped: self.escaped })
    }
}

/// The fields of an object, borrowed from its text.
pub(crate) struct Fields<'a>(Vec<(FieldKey<'a>, &'a RawValue)>);

enum FieldKey<'a> {
    Borrowed(&'a str),
    Owned(Box<str>),
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
        struct Text;
        impl<'de> Visitor<'de> for Text {
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
        deserializer.deserialize_str(Text)
    }
}
