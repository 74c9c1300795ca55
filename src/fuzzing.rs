//! Ways in for the fuzz targets in `fuzz/`; only there with `--cfg fuzzing`.
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

use crate::{
    cookie::CookiePolicy,
    data::{Values, json},
    id::{ID_CHARS, SessionKey},
    record::{self, Record},
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

/// Drops cookies of the session cookie's name from `Set-Cookie` fields, one a line: all of them, and no others.
///
/// # Panics
/// When a promise is broken.
pub fn set_cookie(input: &[u8]) {
    let fields = input.split(|byte| *byte == b'\n').filter_map(|field| HeaderValue::from_bytes(field).ok());
    let mut headers: HeaderMap = fields.map(|value| (SET_COOKIE, value)).collect();
    let policy = CookiePolicy::default();
    let before = headers.len();
    let dropped = policy.drop_foreign(&mut headers);
    assert_eq!(dropped, headers.len() < before);
    assert!(!policy.drop_foreign(&mut headers), "once is enough");
    let starts = |value: &HeaderValue| value.as_bytes().starts_with(b"__Host-id=");
    assert!(!headers.get_all(SET_COOKIE).iter().any(starts), "one is left");
}

/// Decodes a record, reads all of its values, and writes it again: what was read must come back.
///
/// # Panics
/// When a promise is broken.
pub fn record(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let key = SessionKey::of_digest(&[7; 32]);
    let Ok(Record::Live { head, values }) = record::decode(&bytes, &key, LIMIT) else { return };
    let names: Vec<String> = values.iter().map(|pair| String::from_utf8_lossy(pair.key).into_owned()).collect();
    assert_eq!(names.len(), values.len());
    for name in &names {
        assert!(values.contains(name));
        let raw = values.get(name).unwrap_or_default();
        let _ = json::decode::<serde_json::Value>(&raw);
    }
    let again = record::encode(&key, &head, values.iter()).text().clone();
    let Ok(Record::Live { head: head_again, values: values_again }) = record::decode(&again, &key, usize::MAX) else {
        panic!("what was written is not read: {again:?}");
    };
    // Without an owner nobody asks for the predecessor.
    assert_eq!((head_again.created, head_again.end, head_again.owner), (head.created, head.end, head.owner));
    let pairs = |values: &Values| values.iter().map(|pair| (pair.key.to_vec(), pair.json.to_vec())).collect::<Vec<_>>();
    assert_eq!(pairs(&values), pairs(&values_again), "the values changed");
}
