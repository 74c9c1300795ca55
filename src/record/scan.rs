//! The places of keys and values in the text of an object, in the form that this crate writes: no blanks, keys in order.
//!
//! What it accepts is JSON; of JSON it accepts only a part. `None` says nothing: serde_json then reads the text.
use std::ops::Range;

use serde_json::value::RawValue;

/// Where a key and its value stand in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// A key with escapes has its place among the escaped ones in place of an end, and [`ESCAPED`] in place of a start.
    key: (u32, u32),
    value: (u32, u32),
}

const ESCAPED: u32 = u32::MAX;

impl Field {
    /// `None`: the text is longer than any record.
    pub(super) fn new(key: Range<usize>, value: Range<usize>) -> Option<Self> {
        let place = |place: Range<usize>| Some((u32::try_from(place.start).ok()?, u32::try_from(place.end).ok()?));
        Some(Self { key: place(key)?, value: place(value)? })
    }

    pub(super) fn escaped(at: usize, value: Range<usize>) -> Option<Self> {
        Self::new(ESCAPED as usize..at, value)
    }

    /// The key's place in the text, or else among the escaped ones.
    pub(super) const fn key(self) -> Result<Range<usize>, usize> {
        let (start, end) = self.key;
        if start == ESCAPED { Err(end as usize) } else { Ok(start as usize..end as usize) }
    }

    pub(super) const fn value(self) -> Range<usize> {
        self.value.0 as usize..self.value.1 as usize
    }
}

/// The fields of the object that `bytes` are from `start` to `end`.
pub(super) fn fields(bytes: &[u8], start: usize, end: usize) -> Option<Vec<Field>> {
    let text = bytes.get(start..end)?;
    // All at once, as that takes a few instructions for many bytes.
    let plain = text.iter().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~') & (*byte != b'\\'));
    (plain || str::from_utf8(text).is_ok()).then_some(())?;
    let mut rest = text.strip_prefix(b"{")?;
    let mut fields = Vec::with_capacity(4);
    if rest == b"}" {
        return Some(fields);
    }
    let mut last: Option<&[u8]> = None;
    loop {
        let key = rest.strip_prefix(b"\"")?;
        let (name, value) = key.split_at_checked(plain_text(key, plain)?)?;
        if last.is_some_and(|last| name <= last) {
            return None;
        }
        last = Some(name);
        let value = value.strip_prefix(b"\":")?;
        let length = value_length(value, plain)?;
        let (key, at) = (end - key.len(), end - value.len());
        fields.push(Field::new(key..key + name.len(), at..at + length)?);
        rest = match value.get(length..)? {
            [b',', rest @ ..] => rest,
            [b'}'] => return Some(fields),
            _ => return None,
        };
    }
}

/// The length of the text in front of a quotation mark, if nothing in between is escaped or has to be; `plain` says that of all
/// the bytes.
fn plain_text(bytes: &[u8], plain: bool) -> Option<usize> {
    if plain {
        return bytes.iter().position(|byte| *byte == b'"');
    }
    let length = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20))?;
    (bytes.get(length) == Some(&b'"')).then_some(length)
}

/// The length of the value in front.
fn value_length(text: &[u8], plain: bool) -> Option<usize> {
    let simple = match text {
        [b'"', text @ ..] => plain_text(text, plain).map(|length| length + 2),
        [b'0'..=b'9', ..] => whole_number(text),
        [b't', ..] => text.starts_with(b"true").then_some(4),
        [b'f', ..] => text.starts_with(b"false").then_some(5),
        [b'n', ..] => text.starts_with(b"null").then_some(4),
        // Blanks would be skipped, and are not what this crate writes.
        [b'{' | b'[' | b'-', ..] => None,
        _ => return None,
    };
    simple.or_else(|| {
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
        values.next()?.ok()?;
        Some(values.byte_offset())
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
