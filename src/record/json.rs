//! Values as JSON text that is sure to decode again.
use std::{io, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{
    ser::{CompactFormatter, Formatter, Serializer},
    value::RawValue,
};

use super::{exact, values::Fields};
use crate::error::{DecodeError, EncodeError, SessionError};

/// Arrays and objects within each other: half of what serde_json reads back, as a record adds some of its own.
pub(crate) const MAX_DEPTH: usize = 64;

/// The value as JSON, refused if it is over `limit` bytes or would not come back as it is.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, limit: usize) -> Result<Bytes, SessionError> {
    let mut text = Limited { buffer: Vec::with_capacity(32), limit, over: false };
    let mut checks = Checks::default();
    let result = value.serialize(&mut Serializer::with_formatter(&mut text, Strict { checks: &mut checks }));
    if let Some(refused) = checks.refused {
        return Err(SessionError::Encode(refused));
    }
    if text.over {
        return Err(SessionError::TooLarge { size: limit.saturating_add(1), limit });
    }
    result.map_err(|error| SessionError::Encode(EncodeError::Other(Arc::new(error))))?;
    // serde_json writes as null what would not come back as it was, so that only a value with a null can hide it.
    if checks.nulls {
        exact::check(value).map_err(SessionError::Encode)?;
    }
    // Exactly as long as it is: then `Bytes` takes it without another allocation.
    Ok(text.buffer.into_boxed_slice().into())
}

/// The value under `key`, of which this is the JSON.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, json: &[u8]) -> Result<T, SessionError> {
    serde_json::from_slice(json).map_err(|error| SessionError::Decode(DecodeError::new(key, &error)))
}

/// Whether two texts are the same value: a map may list its keys in another order each time. Numbers are compared as they
/// are written, so that different ones are never taken for one.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    // The same members in another order are as long as before.
    if a.len() != b.len() {
        return false;
    }
    let same = |a: &RawValue, b: &RawValue| same(a.get().as_bytes(), b.get().as_bytes());
    match (a.first(), b.first()) {
        (Some(b'{'), Some(b'{')) => match (parts::<Fields<'_>>(a), parts::<Fields<'_>>(b)) {
            (Some(Fields(mut a)), Some(Fields(mut b))) => {
                for fields in [&mut a, &mut b] {
                    fields.sort_by(|(one, _), (other, _)| one.text().cmp(other.text()));
                }
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.0.text() == b.0.text() && same(a.1, b.1))
            }
            _ => false,
        },
        (Some(b'['), Some(b'[')) => match (parts::<Vec<&RawValue>>(a), parts::<Vec<&RawValue>>(b)) {
            (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same(a, b)),
            _ => false,
        },
        _ => false,
    }
}

fn parts<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

/// How deep arrays and objects nest in well-formed JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

struct Limited {
    buffer: Vec<u8>,
    limit: usize,
    over: bool,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > self.limit {
            self.over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Checks {
    depth: usize,
    nulls: bool,
    refused: Option<EncodeError>,
}

impl Checks {
    fn refuse(&mut self, refused: EncodeError) -> io::Result<()> {
        self.refused = Some(refused);
        Err(io::ErrorKind::InvalidData.into())
    }

    fn enter(&mut self, levels: usize) -> io::Result<()> {
        self.depth += levels;
        if self.depth > MAX_DEPTH { self.refuse(EncodeError::Depth) } else { Ok(()) }
    }

    fn leave(&mut self, levels: usize) {
        self.depth = self.depth.saturating_sub(levels);
    }
}

/// Stops at what must not be stored, before it has cost a stack.
struct Strict<'a> {
    checks: &'a mut Checks,
}

impl Formatter for Strict<'_> {
    fn write_null<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.checks.nulls = true;
        CompactFormatter.write_null(writer)
    }

    fn write_u128<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: u128) -> io::Result<()> {
        match u64::try_from(value) {
            Ok(value) => CompactFormatter.write_u64(writer, value),
            Err(_) => self.checks.refuse(EncodeError::Range),
        }
    }

    fn write_i128<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i128) -> io::Result<()> {
        match (i64::try_from(value), u64::try_from(value)) {
            (Ok(value), _) => CompactFormatter.write_i64(writer, value),
            (_, Ok(value)) => CompactFormatter.write_u64(writer, value),
            _ => self.checks.refuse(EncodeError::Range),
        }
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.checks.enter(1)?;
        CompactFormatter.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.checks.leave(1);
        CompactFormatter.end_array(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.checks.enter(1)?;
        CompactFormatter.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.checks.leave(1);
        CompactFormatter.end_object(writer)
    }

    fn write_raw_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let levels = depth(fragment);
        self.checks.enter(levels)?;
        self.checks.leave(levels);
        writer.write_all(fragment.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, value::RawValue};

    use super::*;

    const LIMIT: usize = 65_536;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]))
    }

    #[test]
    fn depth_stops_at_64() {
        for (levels, fits) in [(0, true), (63, true), (64, true), (65, false), (127, false), (128, false), (200, false)]
        {
            let result = encode(&nested(levels), LIMIT);
            assert_eq!(result.is_ok(), fits, "{levels}: {result:?}");
            if let Ok(json) = result {
                assert_eq!(decode::<Value>("k", &json).unwrap(), nested(levels));
            }
        }
        let raw = RawValue::from_string(format!("{}{}", "[".repeat(65), "]".repeat(65))).unwrap();
        assert!(matches!(encode(&raw, LIMIT), Err(SessionError::Encode(EncodeError::Depth))));
    }

    /// Serializing costs stack only down to the limit; a linked list is built and dropped without recursion.
    #[test]
    fn a_hundred_thousand_levels_cost_no_stack() {
        struct Deep(usize);
        impl Serialize for Deep {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                [Self(self.0 - 1)].serialize(serializer)
            }
        }
        assert!(matches!(encode(&Deep(100_000), LIMIT), Err(SessionError::Encode(EncodeError::Depth))));
    }

    #[test]
    fn numbers_that_would_not_come_back_are_refused() {
        assert!(matches!(encode(&f64::NAN, LIMIT), Err(SessionError::Encode(EncodeError::NonFinite))));
        let list = [Some(1.0), None, Some(f64::INFINITY)];
        assert!(matches!(encode(&list, LIMIT), Err(SessionError::Encode(EncodeError::NonFinite))));
        assert!(matches!(encode(&[f32::NEG_INFINITY], LIMIT), Err(SessionError::Encode(EncodeError::NonFinite))));
        assert!(matches!(encode(&u128::MAX, LIMIT), Err(SessionError::Encode(EncodeError::Range))));
        assert!(matches!(encode(&i128::MIN, LIMIT), Err(SessionError::Encode(EncodeError::Range))));
        assert!(matches!(
            encode(&HashMap::from([((1, 2), 3)]), LIMIT),
            Err(SessionError::Encode(EncodeError::Other(_)))
        ));
        for fits in [u128::from(u64::MAX), 0] {
            assert_eq!(decode::<u128>("k", &encode(&fits, LIMIT).unwrap()).unwrap(), fits);
        }
        assert_eq!(&encode(&[Some(1.5), None], LIMIT).unwrap()[..], b"[1.5,null]");
    }

    #[test]
    fn the_limit_is_on_the_json_text() {
        assert!(encode(&"a".repeat(98), 100).is_ok());
        assert!(matches!(encode(&"a".repeat(99), 100), Err(SessionError::TooLarge { limit: 100, .. })));
    }

    #[test]
    fn order_of_a_map_does_not_matter_but_of_a_list_does() {
        assert!(same(br#"{"a":1,"b":2}"#, br#"{"b":2,"a":1}"#));
        assert!(!same(b"[1,2]", b"[2,1]"));
        assert!(!same(b"1", b"2"));
        assert!(!same(br#"{"a":1,"b":2}"#, br#"{"b":2,"a":3}"#));
        assert!(!same(br#"{"a":1,"a":2}"#, br#"{"a":9,"a":2}"#));
    }

    #[test]
    fn numbers_that_differ_are_never_taken_for_one() {
        for (a, b) in [
            ("[9007199254740993]", "[9007199254740992]"),
            ("[36893488147419103233]", "[36893488147419103232]"),
            ("[0.1000000000000000055]", "[0.1000000000000000056]"),
            ("[-0.0]", "[00.0]"),
            ("[1e999]", "[2e999]"),
        ] {
            assert!(!same(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
    }

    #[test]
    fn an_option_within_an_option_is_refused_where_null_would_hide_it() {
        type Twice = Option<Option<u8>>;
        for (value, fits) in [(None as Twice, true), (Some(None), false), (Some(Some(1)), true)] {
            assert_eq!(encode(&value, LIMIT).is_ok(), fits, "{value:?}");
            assert_eq!(encode(&[value], LIMIT).is_ok(), fits, "{value:?}");
        }
        assert!(matches!(encode(&Some(()), LIMIT), Err(SessionError::Encode(EncodeError::NestedOption))));
        assert!(encode(&(), LIMIT).is_ok());
    }

    #[test]
    fn floats_come_back_as_they_were() {
        for value in [0.1 + 0.2, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, -73.985_130_000_000_02, 1e23] {
            let back: f64 = decode("k", &encode(&value, LIMIT).unwrap()).unwrap();
            assert_eq!(back.to_bits(), value.to_bits(), "{value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_finite_float_comes_back(bits: u64, single: u32) {
            let (value, single) = (f64::from_bits(bits), f32::from_bits(single));
            if value.is_finite() {
                assert_eq!(decode::<f64>("k", &encode(&value, LIMIT).unwrap()).unwrap().to_bits(), bits);
            }
            if single.is_finite() {
                assert_eq!(decode::<f32>("k", &encode(&single, LIMIT).unwrap()).unwrap().to_bits(), single.to_bits());
            }
        }
    }
}
