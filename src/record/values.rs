//! The values of a stored session: one text, and where in it each value stands.
//!
//! Hand-written is the scan of an object in the form that this crate writes, without blanks and with its keys in order: it finds
//! each value without decoding it. What it accepts is JSON; of JSON it accepts only a part. `None` says nothing: serde_json then
//! reads the text.
use std::{fmt, ops::Range, sync::OnceLock};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Values by key, as slices of the record they stand in. A value is decoded when it is asked for, not before.
#[derive(Clone, Default)]
pub(crate) struct Values {
    text: Bytes,
    /// Where in the text the object stands.
    object: Range<usize>,
    places: Option<Places>,
    /// Those of a record that was written: found when a handle asks for a value, which most requests do not do any more.
    written: OnceLock<Box<Places>>,
}

/// Where a key and its value stand in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    key: FieldName,
    value: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FieldName {
    InText(Range<usize>),
    /// By its place among the escaped ones.
    Escaped(usize),
}

impl Field {
    const fn plain(key: Range<usize>, value: Range<usize>) -> Self {
        Self { key: FieldName::InText(key), value }
    }

    fn key<'a>(&self, text: &'a [u8], escaped: &'a [Box<str>]) -> &'a [u8] {
        match &self.key {
            FieldName::InText(key) => text.get(key.clone()),
            FieldName::Escaped(at) => escaped.get(*at).map(|key| key.as_bytes()),
        }
        .unwrap_or_default()
    }
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
pub(crate) struct EncodedValue<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) json: &'a [u8],
    /// Both, as they stand in an object, with nothing but `":` in between; empty if they stand nowhere like that.
    written: &'a [u8],
}

impl<'a> From<(&'a [u8], &'a [u8])> for EncodedValue<'a> {
    fn from((key, json): (&'a [u8], &'a [u8])) -> Self {
        Self { key, json, written: &[] }
    }
}

impl<'a> EncodedValue<'a> {
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
        Some(Self { fields: scan(text, start, end)?, escaped: Vec::new() })
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
                FieldKey::Borrowed(key) => Field::plain(place(key)?, value),
                FieldKey::Owned(key) => {
                    places.escaped.push(key);
                    Field { key: FieldName::Escaped(places.escaped.len() - 1), value }
                }
            };
            places.fields.push(field);
        }
        Some(places)
    }
}

impl Values {
    /// These pairs, in the order of their keys, as an object outside of any record.
    pub(crate) fn of_values<'a>(pairs: impl Iterator<Item = EncodedValue<'a>>) -> Self {
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
        self.places.as_ref().unwrap_or_else(|| self.written.get_or_init(|| Box::new(find())))
    }

    pub(crate) fn len(&self) -> usize {
        self.places().fields.len()
    }

    fn place(&self, key: &[u8]) -> Option<Range<usize>> {
        let Places { fields, escaped } = self.places();
        let at = fields.binary_search_by(|field| field.key(&self.text, escaped).cmp(key)).ok()?;
        fields.get(at).map(|field| field.value.clone())
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

    fn pair(&self, field: &Field) -> Option<EncodedValue<'_>> {
        match &field.key {
            FieldName::InText(key) => EncodedValue::within(&self.text, key.clone(), field.value.clone()),
            FieldName::Escaped(at) => {
                let (key, json) = (self.places().escaped.get(*at)?, self.text.get(field.value.clone())?);
                Some((key.as_bytes(), json).into())
            }
        }
    }

    /// Keys and the JSON of their values, in the order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = EncodedValue<'_>> {
        self.places().fields.iter().map_while(|field| self.pair(field))
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

/// The fields of the object that `bytes` are from `start` to `end`.
fn scan(bytes: &[u8], start: usize, end: usize) -> Option<Vec<Field>> {
    let bytes = bytes.get(..end)?;
    let text = bytes.get(start..)?;
    // All at once, as that takes a few instructions for many bytes.
    let plain = text.iter().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~') & (*byte != b'\\'));
    (plain || str::from_utf8(text).is_ok()).then_some(())?;
    let mut at = after(bytes, start, b'{')?;
    let mut fields: Vec<Field> = Vec::with_capacity(4);
    if after(bytes, at, b'}') == Some(end) {
        return Some(fields);
    }
    let mut last: &[u8] = &[];
    loop {
        let key = after(bytes, at, b'"')?;
        let key_end = plain_text(bytes, key, plain)?;
        let name = bytes.get(key..key_end)?;
        if name <= last && !fields.is_empty() {
            return None;
        }
        last = name;
        let value = after(bytes, key_end + 1, b':')?;
        at = value_end(bytes, value, plain)?;
        fields.push(Field::plain(key..key_end, value..at));
        match bytes.get(at)? {
            b',' => at += 1,
            b'}' => return (at + 1 == end).then_some(fields),
            _ => return None,
        }
    }
}

fn after(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    (*bytes.get(at)? == byte).then_some(at + 1)
}

/// Where the quotation mark stands that ends the text from `at`, if nothing in between is escaped or has to be; `plain` says
/// that of all the bytes.
fn plain_text(bytes: &[u8], at: usize, plain: bool) -> Option<usize> {
    if plain {
        return bytes.get(at..)?.iter().position(|byte| *byte == b'"').map(|length| at + length);
    }
    let length = bytes.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20))?;
    (bytes.get(at + length) == Some(&b'"')).then_some(at + length)
}

/// Where the value that begins at `at` ends.
fn value_end(bytes: &[u8], at: usize, plain: bool) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let simple = match rest.first()? {
        b'"' => plain_text(bytes, at + 1, plain).map(|end| end + 1),
        b'0'..=b'9' => whole_number(rest).map(|length| at + length),
        b't' => rest.starts_with(b"true").then_some(at + 4),
        b'f' => rest.starts_with(b"false").then_some(at + 5),
        b'n' => rest.starts_with(b"null").then_some(at + 4),
        // Blanks would be skipped, and are not what this crate writes.
        b'{' | b'[' | b'-' => None,
        _ => return None,
    };
    simple.or_else(|| {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        values.next()?.ok()?;
        Some(at + values.byte_offset())
    })
}

/// The length of digits in front that are a number as they are.
fn whole_number(text: &[u8]) -> Option<usize> {
    let length = text.iter().position(|byte| !byte.is_ascii_digit())?;
    let canonical = length == 1 || text.first() != Some(&b'0');
    (canonical && !matches!(text.get(length), Some(b'.' | b'e' | b'E'))).then_some(length)
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
    pub(crate) fn field(&mut self, EncodedValue { key, json, written }: EncodedValue<'_>) {
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
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
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
        deserializer.deserialize_map(ObjectVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for FieldKey<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
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
        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::Values;

    /// Pieces that make up well-formed and malformed objects.
    fn piece() -> impl Strategy<Value = &'static str> {
        let pieces = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"a\"",
            "\"b\"",
            "\"\u{fc}\"",
            "\"\\n\"",
            "\u{7f}",
            "\\",
            "\n",
            " ",
            "0",
            "01",
            "12",
            "-1",
            "1.5",
            "1e9",
            "1.",
            "-",
            "true",
            "tru",
            "false",
            "null",
            "{\"x\":[1,2]}",
            "[{}]",
            "\"a\":1",
            "\"b\":\"t\"",
            "\"c\":{\"d\":null}",
            "\"d\":-0.5",
        ];
        prop::sample::select(pieces.to_vec())
    }

    fn both(text: &str) -> (Option<Values>, Option<Values>) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let shared = std::str::from_utf8(&bytes).unwrap();
        let slow = Values::of_raw(&bytes, shared);
        (Values::of_object(&bytes, 0, shared.len()), slow)
    }

    fn pairs(values: &Values) -> Vec<(&[u8], &[u8])> {
        values.iter().map(|pair| (pair.key, pair.json)).collect()
    }

    #[test]
    fn what_this_crate_writes_is_accepted() {
        for text in ["{}", r#"{"a":1}"#, r#"{"a":"x","b":[1,{"c":2.5}],"c":-7,"d":null,"e":true,"f":false,"g":0}"#] {
            assert!(both(text).0.is_some(), "{text}");
        }
        for text in ["", "{", "{}}", "{\"a\":1,}", "{\"b\":1,\"a\":2}", "{\"a\":1,\"a\":1}", "{\"a\": 1}", "{\"a\":01}"]
        {
            assert!(both(text).0.is_none(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn it_accepts_what_is_json_and_finds_the_same(pieces in prop::collection::vec(piece(), 0..9), wrap: bool) {
            let text = pieces.concat();
            let text = if wrap { format!("{{{text}}}") } else { text };
            if let (Some(fast), slow) = both(&text) {
                let slow = slow.expect("serde_json refuses it");
                prop_assert_eq!(pairs(&fast), pairs(&slow));
            }
        }
    }
}
