//! Where the fields of a large object stand, written behind it: whoever reads one of four hundred need not look at the
//! others.
//!
//! `{…},"at":"…"`: four characters of base64url for the place of each field, counted from the object's start, and eleven for
//! a checksum of all that. It tells what this crate wrote from what was damaged since, and nothing more: who can write to the
//! cache can write a checksum as well.
use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rapidhash::v3::rapidhash_v3;

/// With fewer fields, looking at each takes no longer than finding out that nobody has to.
pub(super) const WORTH_IT: usize = 16;

const NAME: &[u8] = b",\"at\":\"";
const PLACE: usize = 4;
const SUM: usize = 11;

/// The index of an object, which is from `start` to `end` of a text.
#[derive(Debug)]
pub(super) struct Index {
    start: usize,
    end: usize,
    places: usize,
    count: usize,
}

/// Writes the index of the object from `start` to the end of `text`, of whose fields the first quotation marks stand at
/// `places`, counted from there.
pub(super) fn write(text: &mut Vec<u8>, start: usize, places: &[u32]) {
    let length = text.len();
    text.extend_from_slice(NAME);
    for at in places {
        let [0, place @ ..] = at.to_be_bytes() else {
            // Over 16 MiB: then it goes without.
            return text.truncate(length);
        };
        push(text, &place, [0; PLACE]);
    }
    let sum = rapidhash_v3(text.get(start..).unwrap_or_default());
    push(text, &sum.to_be_bytes(), [0; SUM]);
    text.push(b'"');
}

fn push<const N: usize>(text: &mut Vec<u8>, bytes: &[u8], mut buffer: [u8; N]) {
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut buffer);
    debug_assert_eq!(written, Ok(N));
    text.extend_from_slice(&buffer);
}

impl Index {
    /// The index of the object that begins at `start` of `text` and is followed by its index up to `end`.
    pub(super) fn read(text: &[u8], start: usize, end: usize) -> Option<Self> {
        let body = text.get(..end)?.strip_suffix(b"\"")?;
        let places = memchr::memrchr(b'"', body)? + 1;
        let sum_at = body.len().checked_sub(SUM).filter(|at| *at >= places)?;
        let object_end = places.checked_sub(NAME.len()).filter(|at| *at > start)?;
        let fits = body.get(object_end..places)? == NAME && (sum_at - places).is_multiple_of(PLACE);
        let mut sum = [0; 8];
        URL_SAFE_NO_PAD.decode_slice(body.get(sum_at..)?, &mut sum).ok().filter(|length| *length == 8)?;
        let is_whole = fits && rapidhash_v3(body.get(start..sum_at)?) == u64::from_be_bytes(sum);
        is_whole.then_some(Self { start, end: object_end, places, count: (sum_at - places) / PLACE })
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Where the field's first quotation mark stands; for the one after the last, where the object's end does.
    fn place(&self, text: &[u8], at: usize) -> Option<usize> {
        if at == self.count {
            return Some(self.end);
        }
        let from = self.places + at * PLACE;
        let mut bytes = [0; 4];
        let (_, place) = bytes.split_first_mut()?;
        URL_SAFE_NO_PAD.decode_slice(text.get(from..from + PLACE)?, place).ok()?;
        Some(self.start + u32::from_be_bytes(bytes) as usize)
    }

    /// Where a field's key and its value stand.
    pub(super) fn field(&self, text: &[u8], at: usize) -> Option<(Range<usize>, Range<usize>)> {
        let (start, next) = (self.place(text, at)?, self.place(text, at + 1)?);
        let key = start + 1;
        let length = memchr::memchr(b'"', text.get(key..next)?)?;
        // Behind the value stands a comma or the end of the object.
        let value = key + length + 2..next.checked_sub(1)?;
        (value.start <= value.end).then_some((key..key + length, value))
    }

    /// The value of the key, by halves.
    pub(super) fn find(&self, text: &[u8], wanted: &[u8]) -> Option<Range<usize>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let (key, value) = self.field(text, middle)?;
            match text.get(key)?.cmp(wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(value),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::{Fields, Values, Writer};

    fn written(pairs: &BTreeMap<String, String>) -> Bytes {
        let mut writer = Writer::new(b"{\"x\":1,\"data\":".to_vec());
        for (key, json) in pairs {
            writer.field((key.as_bytes(), json.as_bytes()).into());
        }
        writer.finish_record().text().clone()
    }

    fn many(count: usize) -> BTreeMap<String, String> {
        (0..count).map(|n| (format!("key {n}"), format!("{{\"n\":[{n}]}}"))).collect()
    }

    fn fast(text: &Bytes) -> Option<Values> {
        Values::of_object(text, 14, text.len() - 1)
    }

    fn pairs(values: &Values) -> Vec<(&[u8], &[u8])> {
        values.iter().map(|pair| (pair.key, pair.json)).collect()
    }

    #[test]
    fn every_field_is_found_and_nothing_else() {
        for count in [0, 1, 15, 16, 17, 400] {
            let pairs = many(count);
            let text = written(&pairs);
            assert_eq!(text.windows(6).any(|part| part == b",\"at\":"), count >= 16, "{count}");
            let values = fast(&text).unwrap();
            assert_eq!(values.len(), count);
            for (key, json) in &pairs {
                assert_eq!(values.get(key).as_deref(), Some(json.as_bytes()), "{key}");
            }
            for key in ["", "key", "key 0 ", "zzz", "n", "at"] {
                assert!(values.get(key).is_none(), "{key}");
            }
            assert!(values.iter().map(|pair| pair.json).eq(pairs.values().map(String::as_bytes)));
        }
    }

    #[test]
    fn what_was_damaged_is_not_believed() {
        let text = written(&many(20));
        for at in 14..text.len() - 1 {
            let mut other = text.to_vec();
            other[at] ^= 1;
            let other = Bytes::from(other);
            assert!(fast(&other).is_none(), "{at} {}", String::from_utf8_lossy(&other));
        }
    }

    #[test]
    fn fields_with_blanks_are_written_without() {
        let spaced: Vec<_> = (10..40).map(|n| format!("\"key {n}\" :\n {{\"n\": [{n}]}}")).collect();
        let spaced = Bytes::from(format!("{{ {} }}", spaced.join(" , ")));
        let fields = serde_json::from_slice::<Fields<'_>>(&spaced).unwrap();
        let values = Values::of_record(&spaced, fields).unwrap();
        let mut writer = Writer::new(b"{\"x\":1,\"data\":".to_vec());
        values.iter().for_each(|pair| writer.field(pair));
        let again = fast(writer.finish_record().text()).unwrap();
        assert_eq!(pairs(&again), pairs(&values));
        assert_eq!(again.get("key 12").as_deref(), Some(&br#"{"n": [12]}"#[..]));
    }

    #[test]
    fn keys_that_are_escaped_go_without() {
        let mut pairs = many(20);
        pairs.insert("a\"b".into(), "1".into());
        let text = written(&pairs);
        assert!(!text.windows(6).any(|part| part == b",\"at\":"));
    }

    proptest! {
        #[test]
        fn it_says_what_reading_all_of_it_says(map in prop::collection::btree_map("[a-z\u{fc}]{0,5}", "[a-z,:{}\\[\\]]{0,9}", 0..40)) {
            let json = map.iter().map(|(key, text)| (key.clone(), serde_json::to_string(text).unwrap())).collect();
            let text = written(&json);
            let whole = std::str::from_utf8(&text[14..]).unwrap();
            let end = whole.rfind(",\"at\":").filter(|_| map.len() >= 16).unwrap_or(whole.len() - 1);
            let slow = Values::of_record(&text, serde_json::from_str::<Fields<'_>>(&whole[..end]).unwrap()).unwrap();
            let fast = fast(&text).unwrap();
            prop_assert_eq!(pairs(&fast), pairs(&slow));
        }
    }
}
