//! Ways in for the fuzz targets in `fuzz/`; only there with `--cfg fuzzing`.
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::COOKIE};

use crate::{
    cookie::CookiePolicy,
    id::{ID_CHARS, SessionKey},
    record::{self, Decoded, Values, json},
};

const LIMIT: usize = 64 * 1024;

/// Reads `Cookie` fields, one a line, and checks what no header may change.
///
/// # Panics
/// When a promise is broken.
pub fn cookie_header(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for field in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(field) {
            headers.append(COOKIE, value);
        }
    }
    let found = CookiePolicy::default().read(&headers);
    let ids: Vec<String> = found.iter().map(|candidate| candidate.id.as_ref().to_owned()).collect();
    assert!(ids.len() <= 4, "at most four look-ups");
    for (at, id) in ids.iter().enumerate() {
        assert_eq!(id.len(), ID_CHARS);
        assert!(ids.iter().skip(at + 1).all(|other| other != id), "each ID once");
        let is_there = |field: &HeaderValue| field.as_bytes().windows(ID_CHARS).any(|text| text == id.as_bytes());
        assert!(headers.get_all(COOKIE).iter().any(is_there), "no ID from nowhere");
    }
}

/// Decodes a record, reads all of its values, and writes it again: what was read must come back.
///
/// # Panics
/// When a promise is broken.
pub fn record(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let key = SessionKey::of_digest(&[7; 32]);
    let Ok(Decoded::Live(record::Record { head, values })) = record::decode(&bytes, &key, LIMIT) else { return };
    let names: Vec<String> = values.iter().map(|pair| String::from_utf8_lossy(pair.key).into_owned()).collect();
    assert_eq!(names.len(), values.len());
    for name in &names {
        let raw = values.get(name).expect("a name that was listed");
        let _ = json::decode::<serde_json::Value>(&raw);
    }
    let again = record::encode(&key, &head, values.iter(), usize::MAX).map(|record| record.values.text().clone()).unwrap_or_default();
    let Ok(Decoded::Live(record::Record { head: head_again, values: values_again })) =
        record::decode(&again, &key, usize::MAX)
    else {
        panic!("what was written is not read: {again:?}");
    };
    assert_eq!(head_again, head);
    let pairs = |values: &Values| values.iter().map(|pair| (pair.key.to_vec(), pair.json.to_vec())).collect::<Vec<_>>();
    assert_eq!(pairs(&values), pairs(&values_again), "the values changed");
}
