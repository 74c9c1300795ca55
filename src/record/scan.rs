//! The places of keys and values in the text of an object, in the form that this crate writes: no blanks, keys in order.
//!
//! What it accepts is JSON; of JSON it accepts only a part. `None` says nothing: serde_json then reads the text.
use std::ops::Range;

use serde_json::value::RawValue;

/// Where a key and its value stand in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) key: FieldName,
    pub(super) value: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FieldName {
    InText(Range<usize>),
    /// By its place among the escaped ones.
    Escaped(usize),
}

impl Field {
    pub(super) const fn plain(key: Range<usize>, value: Range<usize>) -> Self {
        Self { key: FieldName::InText(key), value }
    }

    pub(super) fn key<'a>(&self, text: &'a [u8], escaped: &'a [Box<str>]) -> &'a [u8] {
        match &self.key {
            FieldName::InText(key) => text.get(key.clone()),
            FieldName::Escaped(at) => escaped.get(*at).map(|key| key.as_bytes()),
        }
        .unwrap_or_default()
    }
}

/// The fields of the object that `bytes` are from `start` to `end`.
pub(super) fn fields(bytes: &[u8], start: usize, end: usize) -> Option<Vec<Field>> {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::Values;

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
