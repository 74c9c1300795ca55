//! The record of a session: its head, its values, the changes that a request makes to them, and replaying these on a newer
//! record. Pure and synchronous.
//!
//! A record is JSON with a format version and its own key inside:
//!
//! ```json
//! {"v":2,"k":"…","c":1780000000000,"e":1782592000000,"d":{"user":42}}
//! ```
//!
//! | field | meaning |
//! | --- | --- |
//! | `v` | format version |
//! | `k` | session key: a record found under another key is refused |
//! | `c`, `e` | created, end of the lifetime; times are milliseconds since the Unix epoch |
//! | `i`, `l`, `p`, `o`, `s`, `g`, `a`, `b`, `w`, `r`, `x` | optional, see [`head::Own`] |
//! | `d` | the values |
//! | `n`, `t` | a tombstone has the successor's key and the time of the renewal in place of `c`, `e` and `d` |
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{error::SessionError, id::SessionKey};

#[cfg(feature = "device-bound")]
mod binding;
mod changes;
mod exact;
mod head;
pub(crate) mod json;
#[cfg(test)]
mod tests;
mod values;

#[cfg(feature = "device-bound")]
pub(crate) use self::binding::{Algorithm, Binding, BoundCookie, CHALLENGE_LIFE, Challenge, Proven, PublicKey};
use self::values::{Fields, Writer};
pub(crate) use self::{
    changes::{Changes, Effect, Identity, Replay, Run, Tag, unknown},
    head::{Head, HeadChanges, Owner, Stamp},
    values::{EncodedValue, Values},
};

const FORMAT: u64 = 2;
const START: &[u8] = b"{\"v\":2,\"k\":\"";
const VALUES: &[u8] = b",\"d\":";

/// The bytes that a head takes at most, beside the values: the limit of a session's size does not count them.
const HEAD_BYTES: usize = if cfg!(feature = "device-bound") { 5120 } else { 2560 };

const MAX_VALUE_KEY: usize = 256;

/// A session, wherever it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) head: Head,
    pub(crate) values: Values,
}

/// What renewal leaves under the old key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) successor: SessionKey,
    /// When the session was renewed.
    pub(crate) at: u64,
}

impl Tombstone {
    /// How long a destroy can find out what came of a renewed session.
    pub(crate) const LIFE: Duration = Duration::from_secs(60 * 60);
}

#[derive(Debug)]
pub(crate) enum Decoded {
    Live(Record),
    Tombstone(Tombstone),
}

/// Why bytes are no record of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Not JSON, or not of this shape.
    Malformed,
    /// Written by another version of this crate.
    Version,
    /// It belongs to another key.
    Foreign,
    /// Larger than the store allows.
    TooLarge,
}

impl Unreadable {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "unknown format version",
            Self::Foreign => "belongs to another key",
            Self::TooLarge => "too large",
        }
    }
}

/// The record of `key` in these bytes; `limit` is that of the values.
pub(crate) fn decode(bytes: &Bytes, key: &SessionKey, limit: usize) -> Result<Decoded, Unreadable> {
    if bytes.len() > limit.saturating_add(HEAD_BYTES) {
        return Err(Unreadable::TooLarge);
    }
    if let Some((head, values)) = head_of(bytes, key)
        && let Some(values) = Values::of_object(bytes, values, bytes.len() - 1)
    {
        return live(head, values, limit);
    }
    decode_any_form(bytes, key, limit)
}

/// The head of a live record in the form that [`encode`] writes, and where its values begin; they end before the last byte.
/// `None` for any other form.
fn head_of(bytes: &[u8], key: &SessionKey) -> Option<(Head, usize)> {
    let rest = bytes.strip_prefix(START)?.strip_prefix(key.as_bytes())?.strip_prefix(b"\"")?;
    let (created, rest) = digits(rest.strip_prefix(b",\"c\":")?)?;
    let (end, rest) = digits(rest.strip_prefix(b",\"e\":")?)?;
    bytes.ends_with(b"}").then_some(())?;
    if let Some(values) = rest.strip_prefix(VALUES) {
        return Some((Head::plain(created, end), bytes.len() - values.len()));
    }
    // Within a string a quotation mark has a backslash in front, so this is not a part of the owner's name.
    let at = rest.windows(VALUES.len()).position(|text| text == VALUES)?;
    let own = [b"{", rest.get(..at)?.strip_prefix(b",")?, b"}"].concat();
    let own = serde_json::from_slice(&own).ok()?;
    Some((Head::with(created, end, own), bytes.len() - rest.len() + at + VALUES.len()))
}

/// A number as this crate writes it: no sign, no leading zero, at most fifteen digits.
fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let (mut value, mut length) = (0, 0);
    for byte in text.iter().copied().take(15).take_while(u8::is_ascii_digit) {
        value = value * 10 + u64::from(byte - b'0');
        length += 1;
    }
    let canonical = length == 1 || text.first() != Some(&b'0');
    if length > 0 && canonical { Some((value, text.get(length..)?)) } else { None }
}

/// Reads a record in any form that JSON has: laid out with blanks, or with its fields in another order.
fn decode_any_form(bytes: &Bytes, key: &SessionKey, limit: usize) -> Result<Decoded, Unreadable> {
    let text = str::from_utf8(bytes).map_err(|_| Unreadable::Malformed)?;
    let Fields(fields) = serde_json::from_str(text).map_err(|_| Unreadable::Malformed)?;
    let mut own = Vec::new();
    let (mut version, mut found, mut created, mut end) = (None, None, None, None);
    let (mut values, mut successor, mut at) = (None, None, None);
    for (name, value) in &fields {
        let value = value.get();
        match name.text() {
            "v" => version = Some(field::<u64>(value)?),
            "k" => found = Some(field::<String>(value).unwrap_or_default()),
            "c" => created = Some(value),
            "e" => end = Some(value),
            "d" => values = Some(value),
            "n" => successor = Some(value),
            "t" => at = Some(value),
            _ => own.push((name.text(), value)),
        }
    }
    if version.ok_or(Unreadable::Malformed)? != FORMAT {
        return Err(Unreadable::Version);
    }
    if found.as_deref() != Some(key.as_str()) {
        return Err(Unreadable::Foreign);
    }
    match (created, end, values, successor, at) {
        (None, None, None, Some(successor), Some(at)) if own.is_empty() => {
            Ok(Decoded::Tombstone(Tombstone { successor: field(successor)?, at: field(at)? }))
        }
        (Some(created), Some(end), Some(values), None, None) => {
            let own: Vec<_> = own.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let own = field(&format!("{{{}}}", own.join(",")))?;
            let head = Head::with(field(created)?, field(end)?, own);
            let values = Values::of_raw(bytes, values).ok_or(Unreadable::Malformed)?;
            live(head, values, limit)
        }
        _ => Err(Unreadable::Malformed),
    }
}

fn live(head: Head, values: Values, limit: usize) -> Result<Decoded, Unreadable> {
    if values.size() > limit {
        return Err(Unreadable::TooLarge);
    }
    Ok(Decoded::Live(Record { head, values }))
}

fn field<T: DeserializeOwned>(json: &str) -> Result<T, Unreadable> {
    serde_json::from_str(json).map_err(|_| Unreadable::Malformed)
}

/// A live record; the [`text`](Values::text) of its values is all of it. `base` is the record before it, if there is one: what
/// has not changed is copied from there.
///
/// # Errors
/// [`TooLarge`](SessionError::TooLarge) if the values alone are over the limit.
pub(crate) fn encode<'a>(
    key: &SessionKey,
    head: &Head,
    base: Option<&Record>,
    pairs: impl Iterator<Item = EncodedValue<'a>>,
    limit: usize,
) -> Result<Record, SessionError> {
    let mut text = Vec::with_capacity(256);
    let is_of_key = |front: &[u8]| front.strip_prefix(START).is_some_and(|rest| rest.starts_with(key.as_bytes()));
    let same_head = base.filter(|base| base.head == *head);
    match same_head.and_then(|base| base.values.front()) {
        Some(front) if front.len() < HEAD_BYTES && is_of_key(front) => text.extend_from_slice(front),
        _ => {
            start(&mut text, key);
            number(&mut text, ",\"c\":", head.created);
            number(&mut text, ",\"e\":", head.end);
            if let Some(own) = head.own() {
                let own = serde_json::to_vec(own).unwrap_or_default();
                text.push(b',');
                text.extend_from_slice(own.get(1..own.len().saturating_sub(1)).unwrap_or_default());
            }
            text.extend_from_slice(VALUES);
        }
    }
    let mut writer = Writer::new(text);
    pairs.for_each(|pair| writer.field(pair));
    let values = writer.finish("}");
    let size = values.size();
    if size > limit {
        return Err(SessionError::TooLarge { size, limit });
    }
    Ok(Record { head: head.clone(), values })
}

pub(crate) fn encode_tombstone(key: &SessionKey, tombstone: &Tombstone) -> Bytes {
    let mut text = Vec::with_capacity(160);
    start(&mut text, key);
    text.extend_from_slice(b",\"n\":\"");
    text.extend_from_slice(tombstone.successor.as_bytes());
    number(&mut text, "\",\"t\":", tombstone.at);
    text.push(b'}');
    text.into()
}

fn start(text: &mut Vec<u8>, key: &SessionKey) {
    text.extend_from_slice(START);
    text.extend_from_slice(key.as_bytes());
    text.push(b'"');
}

fn number(text: &mut Vec<u8>, name: &str, number: u64) {
    text.extend_from_slice(name.as_bytes());
    // A number has a form in JSON, and a vector takes every write.
    let _ = serde_json::to_writer(text, &number);
}

/// Refuses names of values that are too long to be names.
pub(crate) fn check_value_key(key: &str) -> Result<(), SessionError> {
    if key.len() > MAX_VALUE_KEY { Err(SessionError::KeyTooLong { length: key.len() }) } else { Ok(()) }
}
