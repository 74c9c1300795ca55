//! Which domain a cookie can have.

/// The longest host name and the longest of its labels (RFC 1035, 2.3.4).
const DOMAIN_BYTES: usize = 253;
const LABEL_BYTES: usize = 63;

/// The rule that keeps browsers from storing a cookie of this domain, if one does.
///
/// One leading dot is ignored: it has had no meaning since RFC 6265 (5.2.3). That a domain of several labels is a public
/// suffix (`co.uk`) is not found out: that takes a list that changes every week.
pub(super) fn broken_rule(domain: &str) -> Option<&'static str> {
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    if domain.len() > DOMAIN_BYTES {
        return Some("longer than the 253 bytes of a host name (RFC 1035, 2.3.4)");
    }
    if !domain.split('.').all(is_label) {
        return Some(
            "not a host name: labels of 1 to 63 ASCII letters, digits and inner hyphens, a name in another script as \
             `xn--…` (domain-value, RFC 6265bis, 4.1.1; RFC 1123, 2.1)",
        );
    }
    match domain.rsplit_once('.') {
        None => Some(
            "a single label is a public suffix or the host itself: leave `cookie_domain` out and the cookie belongs to one \
             host (RFC 6265bis, 5.7)",
        ),
        Some((_, last)) if is_number(last) => {
            Some("an IP address has no subdomains: leave `cookie_domain` out (RFC 6265bis, 5.1.3)")
        }
        Some(_) => None,
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A host whose last label is a number is an IPv4 address or invalid ("ends in a number checker", WHATWG URL, 3.5).
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
