//! Whether a request came from a page over plain HTTP, where browsers neither keep nor send a `Secure` cookie.
use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, Request, Uri,
    header::{FORWARDED, HOST},
    uri::Scheme,
};

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Domains that no public authority certifies hosts of: `local` and those that are used like it (RFC 6762, 3 and appendix G),
/// `home.arpa` (RFC 8375), `test` (RFC 6761, 6.2).
const LOCAL: [&str; 9] = ["local", "lan", "home", "internal", "intranet", "private", "corp", "arpa", "test"];

/// Whether the browser behind this request will most likely drop a `Secure` cookie: its host is an IP address other than
/// loopback, a single label or below a domain of local networks, and nothing in the request tells of a secure connection.
///
/// A hint for a warning, never for a decision: all of it can be forged.
pub(crate) fn is_likely_lost<B>(request: &Request<B>) -> bool {
    host(request.uri(), request.headers()).is_some_and(is_local) && !is_secure(request.uri(), request.headers())
}

/// The host without its port: of `Host` in HTTP/1, of `:authority` in HTTP/2.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let text = match headers.get(HOST) {
        Some(host) => host.to_str().ok()?,
        None => uri.host()?,
    };
    match text.strip_prefix('[') {
        Some(address) => Some(address.split(']').next().unwrap_or_default()),
        None => text.split(':').next(),
    }
}

/// Whether browsers do not take plain HTTP to this host as secure, and whether it is unlikely to have a certificate.
/// `localhost` is secure (Secure Contexts, 3.1), other names with a dot are taken to be served over HTTPS.
fn is_local(host: &str) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        return !address.to_canonical().is_loopback();
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.rsplit_once('.') {
        Some((_, last)) => LOCAL.iter().any(|local| last.eq_ignore_ascii_case(local)),
        None => !host.is_empty() && !host.eq_ignore_ascii_case("localhost"),
    }
}

fn is_secure(uri: &Uri, headers: &HeaderMap) -> bool {
    // Browsers send it over trustworthy connections only (Fetch Metadata, 2).
    headers.contains_key(SEC_FETCH_SITE)
        || uri.scheme() == Some(&Scheme::HTTPS)
        || parameters(headers, &X_FORWARDED_PROTO).any(is_https)
        || parameters(headers, &FORWARDED).any(|parameter| match parameter.split_once('=') {
            // RFC 7239, 5.4.
            Some((name, value)) => name.eq_ignore_ascii_case("proto") && is_https(value),
            None => false,
        })
}

fn is_https(protocol: &str) -> bool {
    protocol.trim_matches('"').eq_ignore_ascii_case("https")
}

/// The parts of a field between commas and semicolons.
fn parameters<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let fields = headers.get_all(field).into_iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|field| field.split([',', ';'])).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn hosts_without_a_certificate_lose_the_cookie() {
        let lost = [
            "192.168.1.5",
            "192.168.1.5:8080",
            "10.0.0.1",
            "8.8.8.8",
            "0.0.0.0",
            "[fe80::1]",
            "[fd00::1]:8080",
            "nas",
            "NAS:3000",
            "nas.",
            "printer.local",
            "Printer.LOCAL:80",
            "a.b.local.",
            "nas.lan",
            "nas.Home:8080",
            "nas.home.arpa",
            "app.internal",
            "intra.corp",
            "shop.test:3000",
        ];
        let kept = [
            "127.0.0.1",
            "127.0.0.1:3000",
            "127.8.8.8",
            "[::1]",
            "[::1]:3000",
            "[::ffff:127.0.0.1]:1",
            "localhost",
            "LocalHost:3000",
            "localhost.",
            "shop.localhost",
            "shop.localhost:80",
            "shop.example",
            "shop.example:8080",
            "www.shop.example.",
            "local.example",
            "xlocal.example",
            "a.xlocal",
            "lan.example",
            "",
            ":80",
        ];
        for (hosts, expected) in [(&lost[..], true), (&kept[..], false)] {
            for host in hosts {
                assert_eq!(is_likely_lost(&request("/", &[("host", host)])), expected, "{host:?}");
            }
        }
        assert!(!is_likely_lost(&request("/", &[])));
        assert!(!is_likely_lost(&request("/", &[("x-forwarded-proto", "http")])));
    }

    #[test]
    fn the_authority_counts_where_no_host_is_sent() {
        assert!(is_likely_lost(&request("http://192.168.1.5:80/", &[])));
        assert!(is_likely_lost(&request("http://[fd00::1]:80/", &[])));
        assert!(!is_likely_lost(&request("http://shop.example/", &[])));
        assert!(!is_likely_lost(&request("http://nas/", &[("host", "shop.example")])));
        assert!(is_likely_lost(&request("http://shop.example/", &[("host", "nas")])));
    }

    #[test]
    fn what_tells_of_a_secure_connection_keeps_it() {
        let secure = [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-proto", "HTTPS"),
            ("x-forwarded-proto", "https, http"),
            ("x-forwarded-proto", "http,https"),
            ("forwarded", "proto=https"),
            ("forwarded", "for=192.0.2.1;Proto=HTTPS"),
            ("forwarded", "for=192.0.2.1, for=\"[2001:db8::1]\"; proto=\"https\";by=a"),
            ("sec-fetch-site", "none"),
        ];
        for field in secure {
            assert!(!is_likely_lost(&request("/", &[("host", "nas"), field])), "{field:?}");
        }
        let not = [
            ("x-forwarded-proto", "http"),
            ("x-forwarded-proto", "httpsx"),
            ("forwarded", "https"),
            ("forwarded", "for=https"),
            ("forwarded", "proto=http"),
            ("origin", "https://nas"),
            ("x-forwarded-for", "https"),
        ];
        for field in not {
            assert!(is_likely_lost(&request("/", &[("host", "nas"), field])), "{field:?}");
        }
        assert!(!is_likely_lost(&request("https://nas/", &[])));
        let twice = [("host", "nas"), ("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")];
        assert!(!is_likely_lost(&request("/", &twice)));
    }
}
