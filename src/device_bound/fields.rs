//! The header fields of DBSC: structured fields (RFC 9651) of one string each, read and written.
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const REGISTRATION: HeaderName = HeaderName::from_static("secure-session-registration");
pub(crate) const CHALLENGE: HeaderName = HeaderName::from_static("secure-session-challenge");
pub(crate) const RESPONSE: HeaderName = HeaderName::from_static("secure-session-response");
pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("sec-secure-session-id");
pub(crate) const SKIPPED: HeaderName = HeaderName::from_static("secure-session-skipped");

/// What such a field holds: a string without escapes, or the same characters without quotation marks, as Chromium 156 sends
/// them. Parameters are ignored.
///
/// `Err` where there is more than one field, or anything else in it.
pub(crate) fn read<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, ()> {
    let mut fields = headers.get_all(name).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(());
    }
    bare(field.as_bytes()).map(Some).ok_or(())
}

fn bare(field: &[u8]) -> Option<&[u8]> {
    let field = field.trim_ascii();
    let is_text = |text: &[u8]| !text.is_empty() && text.iter().all(|byte| is_plain(*byte));
    let (text, rest) = match field.strip_prefix(b"\"") {
        Some(quoted) => {
            let end = quoted.iter().position(|byte| *byte == b'"')?;
            (quoted.get(..end)?, quoted.get(end + 1..)?)
        }
        None => field.split_at(field.iter().position(|byte| *byte == b';').unwrap_or(field.len())),
    };
    (is_text(text) && (rest.is_empty() || rest.starts_with(b";"))).then_some(text)
}

/// The characters of base64url, and the dot between the parts of a JWT or of a session identifier.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// An offer to register: `path` and `challenge` have no characters that a string would escape.
pub(crate) fn registration(path: &str, challenge: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("(ES256 RS256);path=\"{path}\";challenge=\"{challenge}\"")).ok()
}

pub(crate) fn challenge(challenge: &str, identifier: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"{challenge}\";id=\"{identifier}\"")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(field: &'static str) -> Result<Option<Vec<u8>>, ()> {
        let headers = HeaderMap::from_iter([(RESPONSE, HeaderValue::from_bytes(field.as_bytes()).unwrap())]);
        read(&headers, &RESPONSE).map(|text| text.map(<[u8]>::to_vec))
    }

    #[test]
    fn a_string_is_read_with_and_without_quotation_marks() {
        for field in ["a.b-c_9", " a.b-c_9 ", "\"a.b-c_9\"", "\"a.b-c_9\";x=1", "a.b-c_9;x=\"y\"", "\"a.b-c_9\";"] {
            assert_eq!(read_one(field), Ok(Some(b"a.b-c_9".to_vec())), "{field}");
        }
        for field in ["", "\"\"", "\"a", "a\"", "\"a\"b", "a b", "a, b", "\"a\", \"b\"", "\"a\\\"b\"", ";x", "é", "(a)"]
        {
            assert_eq!(read_one(field), Err(()), "{field}");
        }
        assert_eq!(read(&HeaderMap::new(), &RESPONSE), Ok(None));
        let mut twice = HeaderMap::new();
        twice.append(RESPONSE, HeaderValue::from_static("a"));
        twice.append(RESPONSE, HeaderValue::from_static("a"));
        assert_eq!(read(&twice, &RESPONSE), Err(()));
    }

    #[test]
    fn what_is_written_has_the_form_of_the_draft() {
        let field = registration("/a/b", "c-1").unwrap();
        assert_eq!(field, "(ES256 RS256);path=\"/a/b\";challenge=\"c-1\"");
        assert_eq!(challenge("c-1", "s.1").unwrap(), "\"c-1\";id=\"s.1\"");
    }
}
