use super::*;

type Change = Box<dyn FnOnce(&mut CookieSettings)>;

fn name(name: &str) -> Change {
    let name = name.to_owned();
    Box::new(move |it| it.name = name)
}

fn path(path: &str) -> Change {
    let path = path.to_owned();
    Box::new(move |it| (it.name, it.path) = ("id".to_owned(), path))
}

fn domain(domain: &str) -> Change {
    let domain = domain.to_owned();
    Box::new(move |it| (it.name, it.domain) = ("id".to_owned(), Some(domain)))
}

#[test]
fn every_broken_rule_is_named() {
    let long_domain = format!("{}a", "abc.".repeat(64));
    let mut rows: Vec<(Change, &str, &str)> = vec![
        (name(""), "cookie_name", "4.1.1"),
        (name(&"n".repeat(4096 - 31)), "cookie_name", "4096"),
        (path(""), "cookie_path", "begin"),
        (path("app"), "cookie_path", "begin"),
        (path("\\/"), "cookie_path", "begin"),
        (path(&format!("/{}", "p".repeat(1024))), "cookie_path", "1024"),
        (domain(&long_domain), "cookie_domain", "253"),
        (domain(&format!("{}.example", "l".repeat(64))), "cookie_domain", "label"),
    ];
    for byte in (0..=127u8).filter(|byte| !byte.is_ascii_alphanumeric()) {
        let byte = char::from(byte);
        if !"!#$%&'*+-.^_`|~".contains(byte) {
            rows.push((name(&format!("i{byte}d")), "cookie_name", "token"));
        }
        if byte == ';' || byte == ' ' || byte.is_ascii_control() {
            rows.push((path(&format!("/a{byte}b")), "cookie_path", "path-value"));
        }
        if byte != '.' && byte != '-' {
            rows.push((domain(&format!("a{byte}b.example")), "cookie_domain", "label"));
        }
    }
    for bad in ["é", "\u{2000}id", "id\r\nSet-Cookie: a"] {
        rows.push((name(bad), "cookie_name", "token"));
        rows.push((path(&format!("/{bad}")), "cookie_path", "path-value"));
        rows.push((domain(bad), "cookie_domain", "label"));
    }
    for bad in ["", ".", "..a.example", "a..example", "a.example.", "-a.example", "a-.example", "a.example:80", "[::1]"]
    {
        rows.push((domain(bad), "cookie_domain", "label"));
    }
    for bad in ["localhost", "com", ".com", "nas", "127", "0x7f"] {
        rows.push((domain(bad), "cookie_domain", "single label"));
    }
    for bad in ["127.0.0.1", ".10.0.0.1", "192.168.1.05", "127.1", "example.1", "a.0x7F", "a.0X1", "a.0x"] {
        rows.push((domain(bad), "cookie_domain", "IP address"));
    }
    rows.push((Box::new(|it| (it.same_site, it.secure) = (SameSite::None, false)), "same_site", "Secure"));
    rows.push((Box::new(|it| (it.partitioned, it.secure) = (true, false)), "partitioned", "Secure"));
    rows.push((Box::new(|it| it.secure = false), "secure", "4.1.3.2"));
    rows.push((Box::new(|it| it.path = "/app".to_owned()), "cookie_path", "4.1.3.2"));
    rows.push((Box::new(|it| it.domain = Some("shop.example".to_owned())), "cookie_domain", "4.1.3.2"));
    for (name, section) in [("__Host-Http-", "layered-cookies, 4.1.3.4"), ("__HTTP-id", "layered-cookies, 4.1.3.3")] {
        rows.push((Box::new(move |it| (it.name, it.http_only) = (name.to_owned(), false)), "http_only", section));
    }
    for (name, section) in [("__Secure-id", "4.1.3.1"), ("__secure-id", "4.1.3.1"), ("__http-", "4.1.3.3")] {
        rows.push((Box::new(move |it| (it.name, it.secure) = (name.to_owned(), false)), "secure", section));
    }
    for (change, setting, rule) in rows {
        let settings = settings(change);
        let error = settings.check().expect_err(&format!("{settings:?}"));
        assert_eq!(error.setting(), setting, "{error} of {settings:?}");
        assert!(error.rule().contains(rule), "{error} of {settings:?} does not say {rule}");
    }
}

#[test]
fn what_browsers_keep_is_allowed() {
    let rows = [
        name("__Host-Http-id"),
        name("__Hostid"),
        name("!#$%&'*+-.^_`|~09azAZ"),
        name(&"n".repeat(4096 - 32)),
        path("/"),
        path("/a=b,c\"d\\"),
        path(&format!("/{}", "p".repeat(1023))),
        domain("shop.example"),
        domain(".shop.example"),
        domain("co.uk"),
        domain("1.2.example"),
        domain("1.2.0xfg"),
        domain("1.2.3a"),
        domain(".localhost.example"),
        domain("xn--bcher-kva.example"),
        domain(&format!("{}.example", "l".repeat(63))),
        domain(&format!("{}a", "abc.".repeat(63))),
    ];
    for change in rows {
        let settings = settings(change);
        assert!(settings.check().is_ok(), "{settings:?}");
    }
}

#[test]
fn every_combination_is_judged_as_a_browser_does() {
    let mut valid = 0;
    for settings in combinations() {
        let name = settings.name.to_ascii_lowercase();
        let host = name.starts_with("__host-");
        let http = name.starts_with("__http-") || name.starts_with("__host-http-");
        let needs_secure = name.starts_with("__") || settings.partitioned || settings.same_site == SameSite::None;
        let kept = (settings.secure || !needs_secure)
            && (settings.http_only || !http)
            && (!host || (settings.path == "/" && settings.domain.is_none()));
        valid += usize::from(kept);
        assert_eq!(settings.check().is_ok(), kept, "{settings:?}");
    }
    assert!(valid > 100);
}

#[test]
fn the_default_breaks_no_rule() {
    let checked = policy(|_| ());
    let default = CookiePolicy::default();
    assert_eq!(default.removal(), checked.removal());
    assert_eq!((default.name(), default.persistent()), ("__Host-id", false));
    assert!(policy(|it| it.persistent = true).persistent());
    let insecure = policy(|it| (it.name, it.secure) = ("id".to_owned(), false));
    assert_eq!((default.is_secure(), insecure.is_secure()), (true, false));
}

#[test]
fn debug_shows_the_settings() {
    let text = format!("{:?} {:?}", CookieSettings::default(), CookiePolicy::default());
    assert!(text.contains("__Host-id") && text.contains("SameSite=Lax"), "{text}");
}
