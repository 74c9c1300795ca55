//! What one write leaves behind: key, value and expiry, in one piece of memory.
use bytes::Bytes;

use crate::{
    cache::Expiry,
    clock::{millis, millis_since_epoch},
};

/// Idle time, end and the length of the key.
const HEAD: usize = 20;

/// Expiry, key and value, and the count of those who read it, side by side: a look-up that compares the key has what it
/// needs for the rest of its work.
///
/// A copy, because a value that came in may be a small part of a large buffer, which nobody could account for.
pub(super) struct Payload(Bytes);

/// How long an entry lives, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Lease {
    idle: u64,
    end: u64,
}

impl Lease {
    pub(super) fn deadline(self, start: u64) -> u64 {
        start.saturating_add(self.idle).min(self.end)
    }
}

impl From<Expiry> for Lease {
    fn from(expiry: Expiry) -> Self {
        Self { idle: millis(expiry.idle), end: millis_since_epoch(expiry.end) }
    }
}

impl Payload {
    /// `None`: the key is longer than 4 GiB.
    pub(super) fn new(key: &str, value: &[u8], lease: Lease) -> Option<Self> {
        let length = u32::try_from(key.len()).ok()?.to_le_bytes();
        Some(Self(joined([&lease.idle.to_le_bytes(), &lease.end.to_le_bytes(), &length, key.as_bytes(), value])))
    }

    fn parts(&self) -> Option<(Lease, &[u8], usize)> {
        let (idle, rest) = self.0.split_first_chunk()?;
        let (end, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let lease = Lease { idle: u64::from_le_bytes(*idle), end: u64::from_le_bytes(*end) };
        Some((lease, rest.get(..length)?, HEAD + length))
    }

    pub(super) fn lease(&self) -> Lease {
        self.parts().map_or(Lease { idle: 0, end: 0 }, |(lease, ..)| lease)
    }

    pub(super) fn is_of(&self, key: &str) -> bool {
        self.parts().is_some_and(|(_, own, _)| own == key.as_bytes())
    }

    /// Shares the memory.
    pub(super) fn value(&self) -> Bytes {
        self.parts().map(|(.., at)| self.0.slice(at..)).unwrap_or_default()
    }

    /// The bytes of key and value.
    pub(super) fn len(&self) -> usize {
        self.0.len() - HEAD
    }
}

/// The parts in one allocation, together with the count of its clones, as long as they are no more than 4 KiB.
///
/// A count that is allocated apart costs every read another cache miss. And a million of such small pieces, freed at
/// once, are what common allocators put aside and then join in a single call, which takes them a tenth of a second.
fn joined(parts: [&[u8]; 5]) -> Bytes {
    let length = parts.iter().map(|part| part.len()).sum();
    macro_rules! smallest_of {
        ($($size:literal)*) => {
            match length {
                $(0..=$size => within::<$size>(parts, length),)*
                _ => parts.concat().into(),
            }
        };
    }
    // With the 16 bytes that go in front and the 8 of a common allocator, multiples of 16; small ones would be put aside.
    smallest_of!(
        120 136 152 168 184 200 216 232 248 264 280 296 312 328 344 360 376 392 424 456 488 520 584 648 712 776 904 1032
        1288 1544 1800 2056 2568 3080 3592 4104
    )
}

fn within<const N: usize>(parts: [&[u8]; 5], length: usize) -> Bytes {
    let mut buffer = [0; N];
    let mut rest = buffer.as_mut_slice();
    for part in parts {
        let Some((to, after)) = rest.split_at_mut_checked(part.len()) else { break };
        to.copy_from_slice(part);
        rest = after;
    }
    let mut bytes = Bytes::from_owner(buffer);
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        let lease = Lease { idle: 1 << 40, end: 2 << 40 };
        for length in 0..5000 {
            let (key, value) = ("k".repeat(length % 97), vec![b'v'; length]);
            let payload = Payload::new(&key, &value, lease).unwrap();
            assert!(payload.is_of(&key) && !payload.is_of(&format!("{key}v")));
            assert_eq!((payload.value(), payload.len()), (value.into(), key.len() + length));
            assert_eq!((payload.lease().idle, payload.lease().end), (lease.idle, lease.end));
        }
    }
}
