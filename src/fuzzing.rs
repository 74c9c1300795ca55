//! Ways in for the fuzz targets in `fuzz/`; only there with `--cfg fuzzing`.
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

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
    let Ok(Decoded::Live(record::Record { head, values })) = record::decode(&bytes, &key, LIMIT) else { return };
    let names: Vec<String> = values.iter().map(|pair| String::from_utf8_lossy(pair.key).into_owned()).collect();
    assert_eq!(names.len(), values.len());
    for name in &names {
        let raw = values.get(name).expect("a name that was listed");
        let _ = json::decode::<serde_json::Value>(name, &raw);
    }
    let again = record::encode(&key, &head, None, values.iter(), usize::MAX)
        .map(|record| record.values.text().clone())
        .unwrap_or_default();
    let Ok(Decoded::Live(record::Record { head: head_again, values: values_again })) =
        record::decode(&again, &key, usize::MAX)
    else {
        panic!("what was written is not read: {again:?}");
    };
    assert_eq!(head_again, head);
    let pairs = |values: &Values| values.iter().map(|pair| (pair.key.to_vec(), pair.json.to_vec())).collect::<Vec<_>>();
    assert_eq!(pairs(&values), pairs(&values_again), "the values changed");
}

/// Reads the input as an encrypted entry, writes it as a value, and flips a bit of what was written.
///
/// # Panics
/// When a promise is broken.
#[cfg(feature = "encryption")]
pub fn encrypted_entry(input: &[u8]) {
    use std::time::{Duration, SystemTime};

    use crate::cache::{Cache, EncryptedCache, EncryptionKey, Entry, Expiry, InMemoryCache, Version};

    let inside = InMemoryCache::builder().max_bytes(usize::MAX).build();
    let keys = [EncryptionKey::from_bytes(&[1; 32]), EncryptionKey::from_bytes(&[2; 32])];
    let Ok(cache) = EncryptedCache::new(inside.clone(), keys.into_iter().flatten()) else { panic!("no cache") };
    let expiry = Expiry::new(Duration::from_secs(3600), SystemTime::now() + Duration::from_secs(3600));
    let entry = |bytes: &[u8]| Entry::new(Bytes::copy_from_slice(bytes), Version::unique());

    let raw = entry(input);
    assert!(matches!(now(inside.insert("seed", raw.clone(), expiry)), Ok(true)));
    let Ok(Some(read)) = now(cache.get("seed")) else { panic!("an entry is missing") };
    assert_eq!(read.version, raw.version);
    assert!(read.value.is_empty() || read.value.len() + 33 == input.len(), "a value from nowhere");

    assert!(matches!(now(cache.insert("key", entry(input), expiry)), Ok(true)));
    let Ok(Some(read)) = now(cache.get("key")) else { panic!("an entry is missing") };
    assert_eq!(read.value, input, "the value changed");

    let Ok(Some(sealed)) = now(inside.get("key")) else { panic!("an entry is missing") };
    let mut altered = sealed.value.to_vec();
    let bit = input.iter().fold(0, |bit: usize, byte| bit.wrapping_mul(31).wrapping_add((*byte).into()));
    let bit = bit % (altered.len() * 8);
    if let Some(byte) = altered.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    assert!(now(inside.replace("key", sealed.version, entry(&altered), expiry)).is_ok());
    let Ok(Some(read)) = now(cache.get("key")) else { panic!("an entry is missing") };
    assert!(read.value.is_empty(), "bit {bit} was flipped, and the value was read");
}

/// Reads the header fields of a request to the endpoint of device-bound sessions: first its proof, and behind a line break the
/// session's name. What is read is plain, and no proof that was not signed is accepted.
///
/// # Panics
/// When a promise is broken.
#[cfg(feature = "device-bound")]
pub fn device_bound(input: &[u8]) {
    crate::device_bound::fuzz(input);
}

/// The result of a future that never waits.
#[cfg(feature = "encryption")]
fn now<T>(future: impl Future<Output = T>) -> T {
    use std::task::{Context, Poll, Waker};
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a cache in memory waits"),
    }
}
