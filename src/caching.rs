//! What caches between us and the browser may do with a response that has to do with a session.
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, Entry, VARY},
};

/// What a response has to do with its request's session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// The handler looked at the session.
    pub(crate) looked: bool,
    /// The response sets or removes the session cookie.
    pub(crate) set_cookie: bool,
}

/// Adds what keeps the response from other visitors; whether that took back a permission the handler gave to shared
/// caches, which deserves an event.
///
/// `Vary: Cookie` whenever the session was looked at or its cookie is sent. And `Cache-Control`:
///
/// | the handler said | session cookie sent | only looked at |
/// | --- | --- | --- |
/// | nothing | `no-store` | `private` |
/// | `no-store` or `private`, whatever else | left alone | left alone |
/// | anything else | replaced by `no-store` | `private` and the rest, without `public`, `s-maxage` and `private="…"` |
///
/// Reported is the last row where it had `public`, `s-maxage` or `max-age`. `private="field"` does not count as
/// `private`: it lets shared caches keep everything but that field (RFC 9111, 5.2.2.7). `Set-Cookie` alone keeps no
/// cache from storing (RFC 9111, 7.3), and `Vary` is ignored by some.
pub(crate) fn apply(headers: &mut HeaderMap, seen: Seen) -> bool {
    if !seen.looked && !seen.set_cookie {
        return false;
    }
    let varies = match headers.try_entry(VARY) {
        Ok(Entry::Vacant(none)) => {
            let _ = none.try_insert(HeaderValue::from_static("Cookie"));
            true
        }
        Ok(Entry::Occupied(field)) => members(field.iter()).any(|member| is_any(member, &["*", "cookie"])),
        // A map of 32768 fields, where nothing can be added.
        Err(_) => true,
    };
    if !varies {
        let _ = headers.try_append(VARY, HeaderValue::from_static("Cookie"));
    }

    let said = match headers.try_entry(CACHE_CONTROL) {
        Ok(Entry::Vacant(none)) => {
            let value = if seen.set_cookie { "no-store" } else { "private" };
            let _ = none.try_insert(HeaderValue::from_static(value));
            false
        }
        Ok(Entry::Occupied(_)) => true,
        Err(_) => false,
    };
    said && restrict(headers, seen)
}

/// As [`apply`], for a handler that said something.
fn restrict(headers: &mut HeaderMap, seen: Seen) -> bool {
    if list(headers, &CACHE_CONTROL).any(|directive| is_any(directive, &["no-store", "private"])) {
        return false;
    }
    let open = |directive: &[u8]| is_any(name(directive), &["public", "s-maxage", "max-age"]);
    let overridden = list(headers, &CACHE_CONTROL).any(open);
    let value = if seen.set_cookie { HeaderValue::from_static("no-store") } else { privately(headers) };
    let _ = headers.try_insert(CACHE_CONTROL, value);
    overridden
}

/// The handler's directives with `private` in front, so that nothing malformed behind it can hide it.
fn privately(headers: &HeaderMap) -> HeaderValue {
    let mut text = b"private".to_vec();
    for directive in list(headers, &CACHE_CONTROL) {
        if !is_any(name(directive), &["public", "s-maxage", "private"]) {
            text.extend_from_slice(b", ");
            text.extend_from_slice(directive);
        }
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("private"))
}

/// The name of a directive, without its argument.
fn name(directive: &[u8]) -> &[u8] {
    directive.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}

fn is_any(text: &[u8], names: &[&str]) -> bool {
    names.iter().any(|name| text.eq_ignore_ascii_case(name.as_bytes()))
}

/// The members of a list that may be spread over several fields (RFC 9110, 5.6.1), without the empty ones.
fn list<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    members(headers.get_all(field).into_iter())
}

fn members<'a>(fields: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
    fields.flat_map(|value| Members { rest: value.as_bytes() })
}

struct Members<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = member_end(self.rest);
            let member = self.rest.get(..end).unwrap_or_default().trim_ascii();
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

/// Where the first comma outside of quotes stands (quoted-string, RFC 9110, 5.6.4).
fn member_end(text: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    let ends = |byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    };
    text.iter().position(ends).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(field: &HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (field.clone(), HeaderValue::from_static(value))).collect()
    }

    /// What the handler said; what becomes of it with a cookie, and when only looked at; whether that is reported.
    type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str], bool);

    fn values(headers: &HeaderMap, field: HeaderName) -> Vec<&str> {
        headers.get_all(field).iter().map(|value| value.to_str().unwrap()).collect()
    }

    const LOOKED: Seen = Seen { looked: true, set_cookie: false };
    const SET: Seen = Seen { looked: false, set_cookie: true };
    const BOTH: Seen = Seen { looked: true, set_cookie: true };

    #[test]
    fn vary_names_cookie_once() {
        let rows: [(&[&str], bool); 9] = [
            (&[], true),
            (&[""], true),
            (&["Accept"], true),
            (&["Accept, X-Cookie", "Cookie2"], true),
            (&["Cookie"], false),
            (&["Accept", "Origin,\tcookie , X"], false),
            (&["accept,COOKIE"], false),
            (&["*"], false),
            (&["Accept", "Origin, *"], false),
        ];
        for (said, added) in rows {
            for seen in [LOOKED, SET, BOTH] {
                let mut headers = map(&VARY, said);
                apply(&mut headers, seen);
                let mut expected = said.to_vec();
                expected.extend(added.then_some("Cookie"));
                assert_eq!(values(&headers, VARY), expected);
                apply(&mut headers, seen);
                assert_eq!(values(&headers, VARY), expected);
            }
        }
    }

    #[test]
    fn cache_control_keeps_shared_caches_out() {
        let rows: [Row; 26] = [
            (&[], &["no-store"], &["private"], false),
            (&["", " , "], &["no-store"], &["private"], false),
            (&["no-store"], &["no-store"], &["no-store"], false),
            (&["private"], &["private"], &["private"], false),
            (&["Private, max-age=60"], &["Private, max-age=60"], &["Private, max-age=60"], false),
            (&["public, NO-STORE"], &["public, NO-STORE"], &["public, NO-STORE"], false),
            (&["s-maxage=1", "private"], &["s-maxage=1", "private"], &["s-maxage=1", "private"], false),
            (&["public"], &["no-store"], &["private"], true),
            (&["public, max-age=3600"], &["no-store"], &["private, max-age=3600"], true),
            (&["PUBLIC , Max-Age=3600"], &["no-store"], &["private, Max-Age=3600"], true),
            (&["max-age=60"], &["no-store"], &["private, max-age=60"], true),
            (&["max-age = 60"], &["no-store"], &["private, max-age = 60"], true),
            (&["max-age=0"], &["no-store"], &["private, max-age=0"], true),
            (&["s-maxage=60"], &["no-store"], &["private"], true),
            (&["max-age=1, S-MaxAge=60", "immutable"], &["no-store"], &["private, max-age=1, immutable"], true),
            (&["max-age=1", "public"], &["no-store"], &["private, max-age=1"], true),
            (&["no-cache"], &["no-store"], &["private, no-cache"], false),
            (&["no-cache, must-revalidate"], &["no-store"], &["private, no-cache, must-revalidate"], false),
            (&["private=\"set-cookie\""], &["no-store"], &["private"], false),
            (&["public, private=\"a, private\""], &["no-store"], &["private"], true),
            (&["private=x, max-age=1"], &["no-store"], &["private, max-age=1"], true),
            (&["x=\"public, no-store\""], &["no-store"], &["private, x=\"public, no-store\""], false),
            (&["x=\"a\\\", private\", public"], &["no-store"], &["private, x=\"a\\\", private\""], true),
            (&["x=\"open, private"], &["no-store"], &["private, x=\"open, private"], false),
            (&["publicly, no-storeroom"], &["no-store"], &["private, publicly, no-storeroom"], false),
            (&["x\\, private"], &["x\\, private"], &["x\\, private"], false),
        ];
        for (said, with_cookie, looked, overridden) in rows {
            for (seen, expected) in [(SET, with_cookie), (BOTH, with_cookie), (LOOKED, looked)] {
                let mut headers = map(&CACHE_CONTROL, said);
                assert_eq!(apply(&mut headers, seen), overridden, "{said:?} {seen:?}");
                assert_eq!(values(&headers, CACHE_CONTROL), expected, "{said:?} {seen:?}");
                assert!(!apply(&mut headers, seen), "{said:?} {seen:?}: once is enough");
                assert_eq!(values(&headers, CACHE_CONTROL), expected, "{said:?} {seen:?}");
            }
        }
    }

    #[test]
    fn an_untouched_session_adds_nothing() {
        for said in [&[][..], &["public, max-age=60"]] {
            let mut headers = map(&CACHE_CONTROL, said);
            let before = headers.clone();
            assert!(!apply(&mut headers, Seen::default()));
            assert_eq!(headers, before);
        }
    }

    #[test]
    fn bytes_beyond_ascii_are_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_bytes(b"public, x=\xe9").unwrap());
        assert!(apply(&mut headers, LOOKED));
        assert_eq!(headers[CACHE_CONTROL].as_bytes(), b"private, x=\xe9");
    }
}
