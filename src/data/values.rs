//! The values of a stored session: one text, and where in it each value stands.
use std::{fmt, ops::Range};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::{
    index::{self, Index},
    scan,
};

/// Values by key, as slices of the record they came in. Nothing is decoded until somebody asks for it.
#[derive(Default)]
pub(crate) struct Values {
    text: Bytes,
    places: Places,
}

/// Where the fields stand, in the order of their keys, each key once.
enum Places {
    Listed {
        fields: SmallVec<[Field; 4]>,
        /// The keys in which JSON had to escape something: most sessions have none.
        escaped: Vec<Box<str>>,
    },
    /// As the record says.
    Indexed(Index),
}

impl Default for Places {
    fn default() -> Self {
        Self::Listed { fields: SmallVec::new(), escaped: Vec::new() }
    }
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

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn slice(self, text: &[u8]) -> &[u8] {
        text.get(self.range()).unwrap_or_default()
    }
}

impl Field {
    pub(super) fn plain(key: Range<usize>, value: Range<usize>) -> Option<Self> {
        Some(Self { key: Place::of(key)?, value: Place::of(value)? })
    }

    fn escaped(at: usize, value: Range<usize>) -> Option<Self> {
        Some(Self { key: Place { start: ESCAPED, end: u32::try_from(at).ok()? }, value: Place::of(value)? })
    }

    /// Only for a key that stands in the text.
    pub(super) fn key_start(&self) -> usize {
        self.key.start as usize
    }

    fn key<'a>(&self, text: &'a [u8], escaped: &'a [Box<str>]) -> &'a [u8] {
        if self.key.start == ESCAPED {
            escaped.get(self.key.end as usize).map(|key| key.as_bytes()).unwrap_or_default()
        } else {
            self.key.slice(text)
        }
    }
}

impl Values {
    pub(crate) fn len(&self) -> usize {
        match &self.places {
            Places::Listed { fields, .. } => fields.len(),
            Places::Indexed(index) => index.len(),
        }
    }

    fn place(&self, key: &[u8]) -> Option<Range<usize>> {
        match &self.places {
            Places::Listed { fields, escaped } => {
                let at = fields.binary_search_by(|field| field.key(&self.text, escaped).cmp(key)).ok()?;
                fields.get(at).map(|field| field.value.range())
            }
            Places::Indexed(index) => index.find(&self.text, key),
        }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.place(key.as_bytes()).is_some()
    }

    /// The JSON of a value; shares the record's memory.
    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        let place = self.place(key.as_bytes())?;
        (place.end <= self.text.len()).then(|| self.text.slice(place))
    }

    fn field(&self, at: usize) -> Option<(&[u8], &[u8])> {
        match &self.places {
            Places::Listed { fields, escaped } => {
                let field = fields.get(at)?;
                Some((field.key(&self.text, escaped), field.value.slice(&self.text)))
            }
            Places::Indexed(index) => {
                let (key, value) = index.field(&self.text, at)?;
                Some((self.text.get(key)?, self.text.get(value)?))
            }
        }
    }

    /// Keys and the JSON of their values, in the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.len()).map_while(|at| self.field(at))
    }

    /// The values of the object that stands in `text` from `start` to `end`, with its index if it has one, in the form that
    /// this crate writes.
    pub(crate) fn of_object(text: &Bytes, start: usize, end: usize) -> Option<Self> {
        let places = if text.get(end.checked_sub(1)?) == Some(&b'"') {
            Places::Indexed(Index::read(text, start, end)?)
        } else {
            Places::Listed { fields: scan::fields(text, start, end)?, escaped: Vec::new() }
        };
        Some(Self { text: text.clone(), places })
    }

    /// Finds the places of `fields`, which were borrowed from `text`.
    pub(crate) fn of_record(text: &Bytes, fields: Fields<'_>) -> Option<Self> {
        let start = text.as_ptr() as usize;
        let place = |part: &str| {
            let from = (part.as_ptr() as usize).checked_sub(start)?;
            Some(from..from.checked_add(part.len())?)
        };
        let (mut found, mut escaped) = (SmallVec::with_capacity(fields.0.len()), Vec::new());
        for (key, value) in fields.0 {
            let value = place(value.get())?;
            found.push(match key {
                FieldKey::Borrowed(key) => Field::plain(place(key)?, value)?,
                FieldKey::Owned(key) => {
                    escaped.push(key);
                    Field::escaped(escaped.len() - 1, value)?
                }
            });
        }
        let key = |field: &Field| field.key(text, &escaped).to_vec();
        if !found.is_sorted_by(|a: &Field, b| a.key(text, &escaped) < b.key(text, &escaped)) {
            found.sort_by_cached_key(key);
            // A key that stands there twice is nothing that this crate wrote.
            found.is_sorted_by(|a, b| a.key(text, &escaped) < b.key(text, &escaped)).then_some(())?;
        }
        Some(Self { text: text.clone(), places: Places::Listed { fields: found, escaped } })
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
    start: usize,
    fields: SmallVec<[Field; 4]>,
    escaped: Vec<Box<str>>,
}

impl Writer {
    pub(crate) fn new(text: Vec<u8>, fields: usize) -> Self {
        Self { start: text.len(), text, fields: SmallVec::with_capacity(fields), escaped: Vec::new() }
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

    /// Closes the object.
    pub(crate) fn finish(mut self) -> Values {
        self.close();
        self.values()
    }

    /// Closes the object, and the record around it.
    pub(crate) fn finish_record(mut self) -> Values {
        self.close();
        if self.fields.len() >= index::WORTH_IT && self.escaped.is_empty() {
            index::write(&mut self.text, self.start, &self.fields);
        }
        self.text.push(b'}');
        self.values()
    }

    fn close(&mut self) {
        self.text.extend_from_slice(if self.fields.is_empty() { b"{}" } else { b"}" });
    }

    fn values(self) -> Values {
        let places = Places::Listed { fields: self.fields, escaped: self.escaped };
        Values { text: self.text.into(), places }
    }
}

impl Values {
    /// What they were read from or written to.
    pub(crate) fn text(&self) -> &Bytes {
        &self.text
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
