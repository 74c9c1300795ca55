//! `Vary` and `Cache-Control` of a response that depends on a session, for the caches between server and browser.
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, Entry, VARY},
};

/// How a request used its session, and what its response does with the session cookie.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SessionUse {
    /// The handler accessed the session, or something may still access it while the body is sent.
    pub(crate) accessed: bool,
    /// The response sets or removes the session cookie.
    pub(crate) set_cookie: bool,
}

/// Restricts who may store the response; whether that revoked a permission of the handler, which deserves an event.
///
/// `Vary: Cookie` whenever the session was accessed or its cookie is sent. And `Cache-Control`:
///
/// | the handler's `Cache-Control` | session cookie sent | session only accessed |
/// | --- | --- | --- |
/// | none | `no-store` | `private` |
/// | `no-store` or `private`, with others | kept | kept |
/// | anything else | replaced by `no-store` | `private` and the rest, without `public`, `s-maxage` and `private="…"` |
///
/// `must-understand` is removed from beside `no-store`: a cache that knows the status code would ignore `no-store`
/// (RFC 9111, 5.2.2.3). `private="field"` does not count as `private`: it lets shared caches store everything but that
/// field (RFC 9111, 5.2.2.7). `Set-Cookie` alone keeps no cache from storing (RFC 9111, 7.3), and some ignore `Vary`.
///
/// [Targeted fields](close_targeted) that override `Cache-Control` are removed.
pub(crate) fn apply(headers: &mut HeaderMap, session: SessionUse) -> bool {
    if !session.accessed && !session.set_cookie {
        return false;
    }
    vary_by_cookie(headers);
    let targeted = close_targeted(headers);
    let cache_control = match headers.try_entry(CACHE_CONTROL) {
        Ok(Entry::Vacant(none)) => {
            let value = if session.set_cookie { "no-store" } else { "private" };
            let _ = none.try_insert(HeaderValue::from_static(value));
            false
        }
        Ok(Entry::Occupied(_)) => restrict(headers, session),
        // A map of 32768 fields, where nothing can be added.
        Err(_) => false,
    };
    targeted || cache_control
}

fn vary_by_cookie(headers: &mut HeaderMap) {
    let varies = match headers.try_entry(VARY) {
        Ok(Entry::Vacant(none)) => {
            let _ = none.try_insert(HeaderValue::from_static("Cookie"));
            true
        }
        Ok(Entry::Occupied(field)) => members(field.iter()).any(|member| is_any(member, &["*", "cookie"])),
        Err(_) => true,
    };
    if !varies {
        let _ = headers.try_append(VARY, HeaderValue::from_static("Cookie"));
    }
}

/// Removes the fields that some caches obey in place of `Cache-Control`; whether one of them let a cache store the response.
///
/// These are the targeted fields of RFC 9213, whose names end in `-Cache-Control` by convention (section 3.1), and older ones
/// of the same kind: `Surrogate-Control` (Edge Architecture Specification 1.0), `Edge-Control`, `X-Accel-Expires` (nginx).
///
/// `Surrogate-Control` that asks for processing (`content="ESI/1.0"`) is replaced by that and `no-store`: without it the
/// visitor would get the unprocessed page, and a surrogate that finds the field may ignore `Cache-Control: private`.
fn close_targeted(headers: &mut HeaderMap) -> bool {
    let targeted = |field: &&HeaderName| {
        let name = field.as_str();
        matches!(name, SURROGATE_CONTROL | "edge-control" | "x-accel-expires") || name.ends_with("-cache-control")
    };
    let mut opened = false;
    let fields: Vec<HeaderName> = headers.keys().filter(targeted).cloned().collect();
    for field in fields {
        opened |= !list(headers, &field).any(|member| is_any(member, &["no-store", "private", "0"]));
        if field == SURROGATE_CONTROL && list(headers, &field).any(|member| is_any(name(member), &["content"])) {
            let value = with_first("no-store", headers, &field, |name| is_any(name, &["content"]));
            let _ = headers.try_insert(field, value);
        } else {
            headers.remove(field);
        }
    }
    opened
}

/// As [`apply`], for a handler that set `Cache-Control`.
fn restrict(headers: &mut HeaderMap, session: SessionUse) -> bool {
    let has = |names: &[&str]| list(headers, &CACHE_CONTROL).any(|directive| is_any(name(directive), names));
    let has_plain = |plain: &str| list(headers, &CACHE_CONTROL).any(|directive| is_any(directive, &[plain]));
    let (value, overridden) = if has_plain("no-store") && has(&["must-understand"]) {
        let rest = |name: &[u8]| !is_any(name, &["no-store", "must-understand"]);
        (with_first("no-store", headers, &CACHE_CONTROL, rest), true)
    } else if has_plain("no-store") || has_plain("private") {
        return false;
    } else if session.set_cookie {
        (HeaderValue::from_static("no-store"), has(&PERMISSIONS))
    } else {
        let rest = |name: &[u8]| !is_any(name, &["public", "s-maxage", "private"]);
        (with_first("private", headers, &CACHE_CONTROL, rest), has(&PERMISSIONS))
    };
    let _ = headers.try_insert(CACHE_CONTROL, value);
    overridden
}

/// What lets a shared cache store a response, with or without a condition.
const PERMISSIONS: [&str; 3] = ["public", "s-maxage", "max-age"];
const SURROGATE_CONTROL: &str = "surrogate-control";

/// `first` and those of the handler's directives whose name is kept, behind it so that nothing malformed can hide it.
fn with_first(
    first: &'static str,
    headers: &HeaderMap,
    field: &HeaderName,
    keep: impl Fn(&[u8]) -> bool,
) -> HeaderValue {
    let mut text = first.as_bytes().to_vec();
    for directive in list(headers, field).filter(|directive| keep(name(directive))) {
        text.extend_from_slice(b", ");
        text.extend_from_slice(directive);
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(first))
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

    /// What the handler said; what becomes of it with a cookie, and when only accessed; whether that is reported.
    type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str], bool);

    fn values(headers: &HeaderMap, field: HeaderName) -> Vec<&str> {
        headers.get_all(field).iter().map(|value| value.to_str().unwrap()).collect()
    }

    const ACCESSED: SessionUse = SessionUse { accessed: true, set_cookie: false };
    const SET: SessionUse = SessionUse { accessed: false, set_cookie: true };
    const BOTH: SessionUse = SessionUse { accessed: true, set_cookie: true };

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
            for session in [ACCESSED, SET, BOTH] {
                let mut headers = map(&VARY, said);
                apply(&mut headers, session);
                let mut expected = said.to_vec();
                expected.extend(added.then_some("Cookie"));
                assert_eq!(values(&headers, VARY), expected);
                apply(&mut headers, session);
                assert_eq!(values(&headers, VARY), expected);
            }
        }
    }

    #[test]
    fn cache_control_keeps_shared_caches_out() {
        let rows: [Row; 33] = [
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
            (&["no-store, must-understand"], &["no-store"], &["no-store"], true),
            (&["Must-Understand , max-age=60", "No-Store"], &["no-store, max-age=60"], &["no-store, max-age=60"], true),
            (&["no-store, private, must-understand=1"], &["no-store, private"], &["no-store, private"], true),
            (&["private, must-understand"], &["private, must-understand"], &["private, must-understand"], false),
            (&["must-understand, max-age=1"], &["no-store"], &["private, must-understand, max-age=1"], true),
            (
                &["no-store, must-understanding"],
                &["no-store, must-understanding"],
                &["no-store, must-understanding"],
                false,
            ),
            (&["no-store=x, must-understand"], &["no-store"], &["private, no-store=x, must-understand"], false),
        ];
        for (said, with_cookie, accessed, overridden) in rows {
            for (session, expected) in [(SET, with_cookie), (BOTH, with_cookie), (ACCESSED, accessed)] {
                let mut headers = map(&CACHE_CONTROL, said);
                assert_eq!(apply(&mut headers, session), overridden, "{said:?} {session:?}");
                assert_eq!(values(&headers, CACHE_CONTROL), expected, "{said:?} {session:?}");
                assert!(!apply(&mut headers, session), "{said:?} {session:?}: once is enough");
                assert_eq!(values(&headers, CACHE_CONTROL), expected, "{said:?} {session:?}");
            }
        }
    }

    #[test]
    fn no_field_overrides_cache_control() {
        // Each field, what is left of it, and whether it let a cache store the response.
        let rows: [(&'static str, &[&'static str], &[&str], bool); 22] = [
            ("cdn-cache-control", &["max-age=60"], &[], true),
            ("cdn-cache-control", &["private=\"x\", max-age=60"], &[], true),
            ("cdn-cache-control", &["no-store"], &[], false),
            ("cdn-cache-control", &["max-age=60", "Private"], &[], false),
            ("cdn-cache-control", &[""], &[], true),
            ("cloudflare-cdn-cache-control", &["public, max-age=60"], &[], true),
            ("vercel-cdn-cache-control", &["max-age=60"], &[], true),
            ("netlify-cdn-cache-control", &["public, durable, s-maxage=60"], &[], true),
            ("x-litespeed-cache-control", &["public,max-age=60"], &[], true),
            ("edge-control", &["max-age=1d"], &[], true),
            ("x-accel-expires", &["60"], &[], true),
            ("x-accel-expires", &["@1893456000"], &[], true),
            ("x-accel-expires", &["0"], &[], false),
            ("surrogate-control", &["max-age=60"], &[], true),
            ("surrogate-control", &["max-age=60+30, content=\"ESI/1.0\""], &["no-store, content=\"ESI/1.0\""], true),
            ("surrogate-control", &["no-store, Content=\"ESI/1.0\""], &["no-store, Content=\"ESI/1.0\""], false),
            ("surrogate-control", &["no-store"], &[], false),
            ("surrogate-control", &["contents=1, max-age=\"content\""], &[], true),
            ("x-accel-buffering", &["no"], &["no"], false),
            ("cache-control-x", &["public"], &["public"], false),
            ("x-surrogate-control", &["max-age=60"], &["max-age=60"], false),
            ("expires", &["Thu, 01 Jan 2099 00:00:00 GMT"], &["Thu, 01 Jan 2099 00:00:00 GMT"], false),
        ];
        for (field, said, left, opened) in rows {
            let field = HeaderName::from_static(field);
            for own in [None, Some("private"), Some("no-store")] {
                for (session, value) in [(ACCESSED, "private"), (SET, "no-store"), (BOTH, "no-store")] {
                    let mut headers = map(&field, said);
                    headers.extend(own.map(|own| (CACHE_CONTROL, HeaderValue::from_static(own))));
                    headers.insert("x-other", HeaderValue::from_static("1"));
                    assert_eq!(apply(&mut headers, session), opened, "{field} {said:?} {own:?} {session:?}");
                    assert_eq!(values(&headers, field.clone()), left, "{said:?} {own:?} {session:?}");
                    assert_eq!(values(&headers, CACHE_CONTROL), [own.unwrap_or(value)]);
                    assert_eq!(
                        (&headers["x-other"], &headers[VARY]),
                        (&"1".parse().unwrap(), &"Cookie".parse().unwrap())
                    );
                    assert!(!apply(&mut headers, session), "{field} {said:?}: a second time changes nothing");
                    assert_eq!(values(&headers, field.clone()), left);
                }
            }
            let mut headers = map(&field, said);
            assert!(!apply(&mut headers, SessionUse::default()));
            assert_eq!(values(&headers, field), said, "a session that was not accessed");
        }
    }

    #[test]
    fn every_field_that_overrides_is_closed_in_one_response() {
        let mut headers = map(&CACHE_CONTROL, &["public, max-age=60"]);
        for field in ["cdn-cache-control", "surrogate-control", "x-accel-expires", "a-cache-control"] {
            headers.insert(field, HeaderValue::from_static("60"));
        }
        assert!(apply(&mut headers, ACCESSED));
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(values(&headers, CACHE_CONTROL), ["private, max-age=60"]);
    }

    #[test]
    fn an_untouched_session_adds_nothing() {
        for said in [&[][..], &["public, max-age=60"]] {
            let mut headers = map(&CACHE_CONTROL, said);
            let before = headers.clone();
            assert!(!apply(&mut headers, SessionUse::default()));
            assert_eq!(headers, before);
        }
    }

    #[test]
    fn bytes_beyond_ascii_are_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_bytes(b"public, x=\xe9").unwrap());
        assert!(apply(&mut headers, ACCESSED));
        assert_eq!(headers[CACHE_CONTROL].as_bytes(), b"private, x=\xe9");
    }
}
