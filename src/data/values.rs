//! The values of a stored session: one text, and where in it each value stands.
use std::{fmt, ops::Range};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Values by key, as slices of the record they came in. Nothing is decoded until somebody asks for it.
#[derive(Default)]
pub(crate) struct Values {
    text: Bytes,
    /// In the order of their keys, each key once.
    fields: Vec<Field>,
}

struct Field {
    key: Key,
    value: Range<u32>,
}

/// A key stands in the text as it is, unless JSON had to escape something in it.
enum Key {
    Plain(Range<u32>),
    Escaped(Box<str>),
}

impl Key {
    fn bytes<'a>(&'a self, text: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Plain(at) => slice(text, at),
            Self::Escaped(key) => key.as_bytes(),
        }
    }
}

fn slice<'a>(text: &'a [u8], at: &Range<u32>) -> &'a [u8] {
    text.get(at.start as usize..at.end as usize).unwrap_or_default()
}

impl Values {
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    fn position(&self, key: &[u8]) -> Option<usize> {
        self.fields.binary_search_by(|field| field.key.bytes(&self.text).cmp(key)).ok()
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
        self.fields.iter().map(|field| (field.key.bytes(&self.text), slice(&self.text, &field.value)))
    }

    /// Finds the places of `fields`, which were borrowed from `text`.
    pub(crate) fn of_record(text: &Bytes, fields: Fields<'_>) -> Option<Self> {
        let start = text.as_ptr() as usize;
        let place = |part: &str| -> Option<Range<u32>> {
            let from = u32::try_from((part.as_ptr() as usize).checked_sub(start)?).ok()?;
            Some(from..from.checked_add(u32::try_from(part.len()).ok()?)?)
        };
        let mut found = Vec::with_capacity(fields.0.len());
        for (key, value) in fields.0 {
            let key = match key {
                FieldKey::Borrowed(key) => Key::Plain(place(key)?),
                FieldKey::Owned(key) => Key::Escaped(key),
            };
            found.push(Field { key, value: place(value.get())? });
        }
        let mut values = Self { text: text.clone(), fields: found };
        if !values.is_sorted() {
            values.fields.sort_by(|a, b| a.key.bytes(text).cmp(b.key.bytes(text)));
            // A key that stands there twice is nothing that this crate wrote.
            values.is_sorted().then_some(())?;
        }
        Some(values)
    }

    fn is_sorted(&self) -> bool {
        self.fields.is_sorted_by(|a, b| a.key.bytes(&self.text) < b.key.bytes(&self.text))
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
}

impl Writer {
    pub(crate) fn new(text: Vec<u8>, fields: usize) -> Self {
        Self { text, fields: Vec::with_capacity(fields) }
    }

    fn end(&self) -> u32 {
        // Records are bounded far below 4 GiB: see `SessionStore::max_bytes`.
        u32::try_from(self.text.len()).unwrap_or(u32::MAX)
    }

    /// Keys have to come in their order.
    pub(crate) fn field(&mut self, key: &[u8], value: &[u8]) {
        self.text.push(if self.fields.is_empty() { b'{' } else { b',' });
        self.text.push(b'"');
        let start = self.end();
        let plain = key.iter().all(|byte| *byte >= 0x20 && !matches!(byte, b'"' | b'\\'));
        let key = if plain {
            self.text.extend_from_slice(key);
            Key::Plain(start..self.end())
        } else {
            let key = String::from_utf8_lossy(key).into_owned();
            let quoted = serde_json::Value::from(key.as_str()).to_string();
            let escaped = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
            self.text.extend_from_slice(escaped.as_bytes());
            Key::Escaped(key.into())
        };
        self.text.extend_from_slice(b"\":");
        let start = self.end();
        self.text.extend_from_slice(value);
        self.fields.push(Field { key, value: start..self.end() });
    }

    /// Closes the object, and the record around it with `tail`.
    pub(crate) fn finish(mut self, tail: &[u8]) -> (Bytes, Values) {
        self.text.extend_from_slice(if self.fields.is_empty() { b"{}" } else { b"}" });
        self.text.extend_from_slice(tail);
        let text = Bytes::from(self.text);
        (text.clone(), Values { text, fields: self.fields })
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
