//! An entry as one string value: a byte of magic, version, idle time and end, then the payload.
use bytes::{Buf, BufMut, Bytes};

use crate::cache::{Entry, Expiry, Version};
use crate::clock::{later, millis, millis_since_epoch};

/// Tells our values from others'; also the format's number.
const MAGIC: u8 = 1;
/// 1 magic, 8 version, 6 idle and 6 end, all big endian.
pub(super) const HEADER: usize = 21;
/// What six bytes hold: some 8900 years in milliseconds.
pub(super) const LONGEST: u64 = (1 << 48) - 1;

/// An idle time that no entry reaches.
pub(super) const NEVER: u64 = 2 * LONGEST;

/// Milliseconds that Redis can add to its clock.
pub(super) fn cut(ms: u64) -> u64 {
    ms.min(NEVER)
}

/// The value to store, and the time to live to store it with, in milliseconds.
pub(super) fn encode(version: Version, payload: &[u8], expiry: Expiry, now: u64) -> (Vec<u8>, u64) {
    let idle = millis(expiry.idle).min(LONGEST);
    let mut end = millis_since_epoch(expiry.end);
    if idle == 0 {
        end = end.min(now);
    }
    let mut raw = Vec::with_capacity(HEADER + payload.len());
    raw.put_u8(MAGIC);
    raw.put_u64(version.into());
    raw.put_uint(idle, 6);
    raw.put_uint(end, 6);
    raw.put_slice(payload);
    // Redis refuses zero, and a key without a time to live would stay for good.
    let ttl = end.min(later(now, expiry.idle)).saturating_sub(now).max(1);
    (raw, ttl)
}

pub(super) struct DecodedEntry {
    pub(super) entry: Entry,
    /// In milliseconds.
    pub(super) idle: u64,
    /// In milliseconds since the epoch.
    pub(super) end: u64,
}

/// `None` for a value that this crate did not write. Of one with more than `most` bytes the value is left out: it
/// counts as unreadable, and its version is enough to end it.
pub(super) fn decode(mut raw: Bytes, most: usize) -> Option<DecodedEntry> {
    if raw.len() < HEADER || raw.get_u8() != MAGIC {
        return None;
    }
    let version = Version::from(raw.get_u64());
    let idle = raw.get_uint(6);
    let end = raw.get_uint(6);
    if raw.len() > most {
        raw = Bytes::new();
    }
    Some(DecodedEntry { entry: Entry { value: raw, version }, idle, end })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_is_encoded_decodes() {
        let end = UNIX_EPOCH + Duration::from_millis(1_000_500);
        let (raw, ttl) = encode(Version::from(7), b"x", Expiry { idle: Duration::from_millis(200), end }, 1_000_000);
        assert_eq!(ttl, 200);
        let DecodedEntry { entry, idle, end } = decode(raw.into(), 100).unwrap();
        assert_eq!((entry.value.as_ref(), entry.version), (b"x".as_ref(), Version::from(7)));
        assert_eq!((idle, end), (200, 1_000_500));
    }

    #[test]
    fn a_value_that_is_too_large_is_left_out_and_its_version_is_not() {
        let expiry = Expiry { idle: Duration::from_millis(200), end: UNIX_EPOCH };
        for (length, left) in [(100, 100), (101, 0)] {
            let (raw, _) = encode(Version::from(7), &vec![b'x'; length], expiry, 0);
            let entry = decode(raw.into(), 100).unwrap().entry;
            assert_eq!((entry.value.len(), entry.version), (left, Version::from(7)));
        }
    }

    #[test]
    fn extremes_have_a_time_to_live() {
        let far = SystemTime::now() + Duration::from_secs(1 << 40);
        for (idle, end) in [(Duration::MAX, far), (Duration::ZERO, far), (Duration::MAX, UNIX_EPOCH)] {
            let (raw, ttl) = encode(Version::from(7), b"", Expiry { idle, end }, 1_000_000);
            assert!((1..=LONGEST).contains(&ttl) && decode(raw.into(), 100).is_some());
        }
    }

    #[test]
    fn what_is_foreign_is_told_from_ours() {
        assert!(decode(Bytes::new(), 100).is_none());
        assert!(decode(Bytes::from_static(&[MAGIC; HEADER - 1]), 100).is_none());
        assert!(decode(Bytes::from_static(b"{\"a\":\"value of another application\"}"), 100).is_none());
    }
}
